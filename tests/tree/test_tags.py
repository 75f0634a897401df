"""How long an object is taken for one without tags."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from bucketfs.tree.core.inode import NEVER
from bucketfs.tree.saving.open import TAGS_TRUSTED
from tests.tree.builder import Bucket, planted

pytestmark = pytest.mark.mock_clock


@pytest.mark.parametrize(("waited", "doubted"), [(TAGS_TRUSTED / 2, False), (TAGS_TRUSTED, True)])
async def test_a_listing_does_not_make_it_younger(
    bucket: Bucket, tmp_path: Path, waited: float, doubted: bool
) -> None:
    """A listing, for which the file may be opened without a HEAD, shows no tags."""
    bucket.poke("f", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.find("f")
        await trio.sleep(waited)
        mount.root.listed = NEVER
        await mount.names()
        inode = await mount.find("f")
        bucket.requested()
        handle = await mount.open("f", os.O_WRONLY)
        assert bucket.requested() == {}
        assert mount.tree.posix(inode).tagged == doubted
        await mount.close(handle)


async def test_a_head_tells(bucket: Bucket, tmp_path: Path) -> None:
    """Although a change of tags makes no new version."""
    bucket.poke("f", b"x")
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.find("f")
        assert not mount.tree.posix(inode).tagged
        await bucket.set_tags("f", {"a": "b"})
        await trio.sleep(mount.tree.state.config.open_ttl + 1)
        await mount.close(await mount.open("f", os.O_WRONLY))
        assert mount.tree.posix(inode).tagged
