"""The control socket: how commands ask the daemons of mounts, and what these answer."""
