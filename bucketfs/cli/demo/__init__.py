"""``bucketfs demo``: a bucket to play with, on an S3 server of its own, and a tour through it."""
