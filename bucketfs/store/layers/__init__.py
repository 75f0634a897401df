"""Stores around a store: each adds one policy to every call.

From the inside out: `trace` counts, `limit` bounds how many run at once, `retry` repeats what
failed and ends with an `outage`, `fallback` makes up for what an endpoint lacks.
"""
