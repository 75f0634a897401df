"""argv → a running mount, or one line that says why not.

`main` finds the command. `failure`, `mounts` and `show` are for all; the rooms, each of which uses
only those before it: `options` (argv → `Options`), `socket` (talking to the daemons of mounts),
`process` (the daemon of a mount), `commands` (one module each) and `demo`.
"""
