"""The bytes of files: reading through the cache, collecting writes.

Publishing them as one object.
"""
