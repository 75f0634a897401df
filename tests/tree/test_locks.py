"""Who may write what: everything at once or nothing, so that nobody waits for each other."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import wait_all_tasks_blocked

from bucketfs.tree.core.inode import Directory, Inode
from tests.tree.builder import Bucket, Mount, planted


async def _hold(
    mount: Mount, ready: trio.Event, release: trio.Event, *inodes: Inode, **more: Directory
) -> None:
    async with mount.tree.locks.exclusive(*inodes, **more):
        ready.set()
        await release.wait()


async def test_what_comes_back_deeper_is_no_deadlock(bucket: Bucket, tmp_path: Path) -> None:
    """Two ask for the same two inodes; which of them is deeper changes while the first waits."""
    bucket.poke("deep/down/a", b"")
    bucket.poke("x/b/c", b"")
    async with planted(bucket, tmp_path) as mount:
        a, b = await mount.find("deep/down/a"), await mount.find("x/b")
        free, release = trio.Event(), trio.Event()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hold, mount, free, release, b)
                await free.wait()
                first, second = trio.Event(), trio.Event()
                nursery.start_soon(_hold, mount, first, release, a, b)  # b is higher: it waits
                await wait_all_tasks_blocked()
                mount.tree.state.link(mount.root, "a", a)
                nursery.start_soon(_hold, mount, second, release, a, b)  # a is higher
                await wait_all_tasks_blocked()
                assert not first.is_set()
                assert not second.is_set()
                release.set()
                await first.wait()
                await second.wait()


async def test_who_waits_holds_nothing(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("d/a", b"")
    bucket.poke("b", b"")
    async with planted(bucket, tmp_path) as mount:
        a, b = await mount.find("d/a"), await mount.find("b")
        release = trio.Event()
        async with trio.open_nursery() as nursery:
            held, waits = trio.Event(), trio.Event()
            nursery.start_soon(_hold, mount, held, release, b)
            await held.wait()
            nursery.start_soon(_hold, mount, waits, release, a, b)
            await wait_all_tasks_blocked()
            assert a.open_state is not None
            assert not mount.tree.locks.is_held(a)
            release.set()
        assert a.open_state is None


async def test_a_tree_waits_for_all_below_and_goes_before_who_waits(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("d/e/f", b"")
    async with planted(bucket, tmp_path) as mount:
        d, f = await mount.directory("d"), await mount.find("d/e/f")
        first, tree, last = trio.Event(), trio.Event(), trio.Event()
        releases = [trio.Event() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hold, mount, first, releases[0], f)
            await first.wait()
            nursery.start_soon(_hold, mount, last, releases[2], f)
            await wait_all_tasks_blocked()
            nursery.start_soon(lambda: _hold(mount, tree, releases[1], d, tree=d))
            await wait_all_tasks_blocked()
            assert not tree.is_set()
            releases[0].set()
            await wait_all_tasks_blocked()
            assert tree.is_set()
            assert d.renaming
            assert not last.is_set()
            releases[1].set()
            await last.wait()
            assert not d.renaming
            releases[2].set()


async def test_who_gives_up_waiting_stands_in_nobodys_way(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"")
    async with planted(bucket, tmp_path) as mount:
        f = await mount.find("f")
        release, held = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hold, mount, held, release, f)
            await held.wait()
            with trio.move_on_after(1):
                await _hold(mount, trio.Event(), release, f)
            release.set()
        async with mount.tree.locks.exclusive(f):
            pass
        assert f.open_state is None
