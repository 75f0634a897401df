"""S3 servers of other makers, each alone on this machine for as long as it is needed.

    python -m tests.harness.stores NAME -- COMMAND…          run a command against a fresh one
    python -m tests.harness.stores --table [NAME…] -- ARGS…  pytest against each, and a table

``.ci/store-servers NAME…`` installs them. A server is a module here: what is missing of it, its
version, and how it is started.
"""
