"""The daemon of a mount: checks before the fork, going to the background, serving, unmounting."""
