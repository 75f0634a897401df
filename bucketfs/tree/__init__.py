"""Names, attributes and their keeping in the bucket: the directory tree of one mount."""
