"""The everyday journeys of a file cross no more modules than they did."""

from __future__ import annotations

import pytest

from tests import journeys


@pytest.mark.parametrize("name", journeys.JOURNEYS)
def test_modules_crossed(name: str) -> None:
    _, most = journeys.JOURNEYS[name]
    crossed = journeys.count(name)
    assert 5 < len(crossed) <= most, sorted(crossed)
