"""What the bucket has: names and attributes, found by HEAD and by listing.

Answers are merged into the tree without undoing what changed here meanwhile, and dropped again when
the tree gets too large.
"""
