"""What the bucket is to have: the way of changed bytes, attributes and removals into it.

Open and changed files, uploads and their conflicts (`publish`), promises in the journal, batches of
deletions (`remove`), what is still outstanding, and what an earlier mount left (`replay`).
"""
