"""Fixtures of the tree tests."""

from __future__ import annotations

import pytest

from tests.tree.builder import Bucket


@pytest.fixture
def bucket() -> Bucket:
    """An empty bucket whose requests take 10 ms."""
    return Bucket(latency=0.01)
