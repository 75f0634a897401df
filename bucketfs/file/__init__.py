"""The bytes of files: reading through the cache, collecting writes, publishing them as one object."""
