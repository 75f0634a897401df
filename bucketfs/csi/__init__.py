"""bucketfs-csi: buckets as volumes of a container orchestrator, by its Container Storage Interface.

Three programs in one. ``bucketfs-csi node`` runs on each node, has the right to mount, and mounts.
``bucketfs-csi mounter`` runs beside it without that right, is handed each mount, and serves it by a
bucketfs of its own; the node's program can be replaced while volumes are in use. ``bucketfs-csi
controller`` makes and deletes volumes: prefixes, or buckets of their own.

The other modules of bucketfs know nothing of it.
"""
