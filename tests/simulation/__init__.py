"""Deterministic simulation: random programs on two mounts of one bucket, everything from one seed.

`python -m tests.simulation --seed N` replays a run and prints what happened, in order.
"""
