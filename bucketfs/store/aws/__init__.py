"""S3 as it is spoken: one request a call, answers read without believing them, no policy.

`s3.S3Store` is the door, and lists by `listings`; `connection` builds the aiobotocore client that
it speaks through.
"""
