"""Who acts for whom."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, cast

import pytest

from bucketfs.fuse.owners import is_in_group


@dataclass
class Context:
    """As pyfuse3 describes who asks."""

    uid: int
    gid: int
    pid: int


@pytest.mark.parametrize(
    ("context", "gid", "may"),
    [
        (Context(0, 0, 0), 7, True),
        (Context(5, 7, 0), 7, True),
        (Context(5, 6, 0), 7, False),  # as of a process in another namespace
        (Context(5, 6, os.getpid()), 1 << 31, False),
        *((Context(5, 1 << 31, os.getpid()), gid, True) for gid in os.getgroups()[:1]),
    ],
)
def test_groups(context: Context, gid: int, may: bool) -> None:
    assert is_in_group(cast("Any", context), gid) is may
