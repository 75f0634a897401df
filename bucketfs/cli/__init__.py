"""argv → a running mount, or one line that says why not."""
