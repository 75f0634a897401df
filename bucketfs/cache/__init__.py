"""Pages of objects on the local disk: sparse files, an index that survives a restart.

A bounded size, and a journal of what is nowhere else.
"""
