"""Prefetch: attributes, small files, link targets and subtrees that a program will ask for next.

The decisions are pure (`policy`); `prefetcher` and `subtree` carry them out.
"""
