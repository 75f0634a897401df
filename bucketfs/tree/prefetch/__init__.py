"""What a program will ask next, asked ahead: attributes, small files, link targets, subtrees.

The decisions are pure (`policy`); `prefetcher` and `subtree` carry them out.
"""
