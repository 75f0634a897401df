"""The bucket: `opening.open_store` gives a `Store` that makes up for what S3 lacks.

`opening.open_account` gives the buckets of an account, which can be listed, made and deleted.

`base` is what the layers above know: the `Store` protocol and its values (and `long_listing`, how
to read many pages). `config` says how to reach a bucket, `capability` and `refusal` what its
endpoint can do. The rooms, each of which uses only those before it: `http` (bytes on sockets),
`aws` (S3's requests and answers), `layers` (limits, repetitions, fallbacks).
"""
