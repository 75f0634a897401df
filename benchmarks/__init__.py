"""bucketfs beside the other S3 mounts: the same workloads, one server, one run.

    python -m benchmarks --help

``systems`` says how each mount is started, ``workloads`` what is done on it and how much faster
bucketfs has to be, ``measure`` takes one sample, ``report`` makes tables of many. ``server`` holds
the S3 server and the simulated network (``network.c``) in front of it.
"""
