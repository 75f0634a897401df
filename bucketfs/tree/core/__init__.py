"""What all rooms of the tree share, without I/O.

Inodes and their table, the tree's memory and keys (`state`), how long what is known holds
(`freshness`), names, POSIX attributes as metadata, and the right to write an inode's object
(`locks`).
"""
