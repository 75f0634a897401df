"""Names, attributes and their keeping in the bucket: the directory tree of one mount.

`tree.Tree` is the door for the kernel's side. Behind it are rooms; each uses only those before it:
`core` (inodes, their state, locks), `lookup` (what the bucket has), `prefetch` (what a program will
ask next), `saving` (what the bucket is to have), `namespace` (making, removing, renaming names).
"""
