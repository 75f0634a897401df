"""What the bucket is to have: the way of changed bytes, attributes and removals into it.

Open and changed files (`open`, `change`), saving them now (`save`) and when nobody waits (`later`),
others' versions in the way (`conflict`), promises in the journal, batches of deletions (`remove`),
what is still outstanding, the end of the mount (`drain`, `leave`), and what an earlier one left
(`replay`).
"""
