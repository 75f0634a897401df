"""The Container Storage Interface, version 1.13.0, as it is published, and what protoc makes of it.

csi.proto: https://github.com/container-storage-interface/spec, under the Apache License 2.0, unchanged.
``make csi-proto`` makes the other files from it.
"""
