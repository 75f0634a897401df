"""The kernel's side: decodes FUSE requests, calls the tree, encodes answers.

All of pyfuse3 is here.
"""
