"""bucketfs: S3 buckets as directories.

A request travels one way through the packages::

    kernel ── fuse ── tree ── file ── cache ── store ── the bucket
              errno   names   bytes   pages    objects

``cli`` starts it all. A package imports only what stands to its right in that line
(``tests/unit/test_imports.py`` holds it to that).
"""
