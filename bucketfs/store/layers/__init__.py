"""Stores around a store: each adds one policy to every call.

From the inside out: `trace` counts, `limit` bounds how many run at once, `retry` repeats what
failed and ends with an `outage`, `rights` learns what is not allowed, `fallback` makes up for what
an endpoint lacks, `large` knows objects of Swift that are made of others, `single` (if asked for)
takes uploads in parts away.
"""
