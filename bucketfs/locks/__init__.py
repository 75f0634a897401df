"""Locks that mounts on several machines share, kept in the bucket."""
