"""Looking names up: how many requests it costs, and what is remembered for how long."""

from __future__ import annotations

import contextlib
import errno
import stat
from pathlib import Path

import pytest
import trio

from bucketfs.errors import FsError, StoreError
from bucketfs.store.base import Headers
from bucketfs.tree.core.inode import Directory
from bucketfs.tree.core.state import Nobody
from bucketfs.tree.lookup.first_bytes import SLOW, UNREAD, WHOLE_FILE
from bucketfs.tree.lookup.lister import LOOKUP_PAGES
from tests.harness.memory import Fault
from tests.tree.builder import CONFIG, TTL, Bucket, noise, planted, said

pytestmark = pytest.mark.mock_clock


async def test_a_cold_lookup_is_head_beside_list(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"x", said(0o100640, uid="7"))
    async with planted(bucket, tmp_path) as mount:
        began = trio.current_time()
        inode = await mount.find("f")
        assert trio.current_time() - began == pytest.approx(bucket.latency)
        assert bucket.requested() == {"HeadObject": 1, "ListObjectsV2": 1}
        posix = mount.tree.posix(inode)
        assert (posix.mode, posix.uid, inode.size) == (0o100640, 7, 1)


@pytest.mark.parametrize("size", [0, 5, WHOLE_FILE, WHOLE_FILE + 5])
async def test_a_program_s_lookup_brings_the_first_bytes(
    bucket: Bucket, tmp_path: Path, size: int
) -> None:
    data = noise(size)
    bucket.poke("f", data, said(0o100640, uid="7"))
    async with planted(bucket, tmp_path) as mount:
        began = trio.current_time()
        inode = await mount.tree.finder.find(mount.root, "f", asker=1)
        posix = mount.tree.posix(inode)
        assert (posix.mode, posix.uid, inode.size) == (0o100640, 7, size)
        handle = await mount.open("f")
        assert await mount.pread(handle, 0, WHOLE_FILE) == data[:WHOLE_FILE]
        assert trio.current_time() - began == pytest.approx(bucket.latency)
        assert bucket.requested().get("HeadObject", 0) == 0
        await mount.close(handle)
    async with planted(bucket, tmp_path) as mount:
        bucket.requested()
        assert await mount.read("f") == data
        assert bucket.requested().get("GetObject", 0) == (size > WHOLE_FILE), (
            "they are kept as any others"
        )


async def test_a_listed_large_file_is_read_in_one_round_trip(
    bucket: Bucket, tmp_path: Path
) -> None:
    data = noise(4 * WHOLE_FILE)
    bucket.poke("f", data)
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        began = trio.current_time()
        handle = await mount.open("f")
        assert await mount.pread(handle, 0, WHOLE_FILE) == data[:WHOLE_FILE]
        assert trio.current_time() - began == pytest.approx(bucket.latency)
        assert await mount.pread(handle, WHOLE_FILE, len(data)) == data[WHOLE_FILE:]
        assert "HeadObject" not in bucket.requested()
        await mount.close(handle)


async def test_a_program_s_lookup_of_what_may_not_be_read(bucket: Bucket, tmp_path: Path) -> None:
    """Attributes may be seen without the right to decrypt the bytes, say."""
    bucket.poke("f", b"bytes", said(0o100640))
    refusal = StoreError("AccessDenied", status=403)
    bucket.fault = lambda op, _, __: Fault(refusal) if op == "GetObject" else None
    async with planted(bucket, tmp_path) as mount:
        inode = await mount.tree.finder.find(mount.root, "f", asker=1)
        assert (mount.tree.posix(inode).mode, inode.size) == (0o100640, 5)
        bucket.fault = None


async def test_programs_that_read_nothing_get_no_first_bytes(
    bucket: Bucket, tmp_path: Path
) -> None:
    for number in range(2 * UNREAD):
        bucket.poke(f"d{number}/f", b"bytes")
    async with planted(bucket, tmp_path) as mount:

        async def look(number: int) -> None:
            parent = await mount.directory(f"d{number}")
            await mount.tree.finder.find(parent, "f", asker=number + 1)

        for number in range(UNREAD):
            await look(number)
        assert bucket.requested().get("GetObject", 0) == UNREAD
        await look(UNREAD)
        assert bucket.requested().get("GetObject", 0) == 0
        await mount.read(f"d{UNREAD}/f")
        bucket.requested()
        await look(UNREAD + 1)
        assert bucket.requested().get("GetObject", 0) == 1


async def test_bytes_that_take_long_do_not_keep_a_lookup_waiting(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"bytes")
    bucket.fault = lambda name, _key, _count: Fault(hang=True) if name == "GetObject" else None
    async with planted(bucket, tmp_path) as mount:
        began = trio.current_time()
        assert (await mount.tree.finder.find(mount.root, "f", asker=1)).size == 5
        assert trio.current_time() - began < 2 * SLOW
        assert bucket.requested()["HeadObject"] == 1
        bucket.fault = None
        assert await mount.read("f") == b"bytes"


async def test_a_listed_parent_answers_by_itself(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("d/f", b"x")
    bucket.poke("g", b"x")
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        assert await mount.names() == {"d", "g"}
        bucket.requested()
        await mount.find("g")
        assert isinstance(await mount.find("d"), Directory)
        with pytest.raises(FsError) as caught:
            await mount.find("missing")
        assert caught.value.errno == errno.ENOENT
        assert bucket.requested() == {}


async def test_lookups_one_after_another_become_one_list(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(50):
        bucket.poke(f"d/{number:02}", b"x")
    async with planted(bucket, tmp_path, listed_attributes=True) as mount:
        await mount.find("d")
        bucket.requested()
        for number in range(50):
            await mount.find(f"d/{number:02}")
        assert bucket.requested() == {"HeadObject": 3, "ListObjectsV2": 3 + 1}


async def test_misses_one_after_another_become_one_list(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("d/f", b"x")
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        bucket.requested()
        for number in range(20):
            assert await mount.tree.finder.find_or_none(directory, f"no{number}") is None
        assert bucket.requested() == {"HeadObject": 3, "ListObjectsV2": 3 + 1}


async def test_a_directory_too_large_to_list_is_not_listed_at_each_lookup(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Giving up on the listing of a large directory is remembered."""
    bucket.page = 10
    for number in range(100):
        bucket.poke(f"d/{number:02}", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.find("d")
        bucket.requested()
        for number in range(30):
            await mount.find(f"d/{number:02}")
        lists = bucket.requested()["ListObjectsV2"]
        assert lists <= 30 + 10, f"{lists} LISTs for 30 lookups"


async def test_lookups_at_once_in_a_directory_too_large_to_list_give_up_together(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.page = 10
    for number in range(100):
        bucket.poke(f"d/{number:02}", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.find("d")
        bucket.requested()
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(mount.find, f"d/{number:02}")
        lists = bucket.requested()["ListObjectsV2"]
        assert lists == 16 + LOOKUP_PAGES
        taken = trio.current_time() - began
        assert taken == pytest.approx((LOOKUP_PAGES + 1) * bucket.latency)


@pytest.mark.parametrize(("ttl", "open_ttl"), [(60.0, 4.0), (4.0, 60.0)])
@pytest.mark.parametrize("listed", [False, True])
async def test_a_free_name_is_remembered_for_the_shorter_time(
    bucket: Bucket, tmp_path: Path, listed: bool, ttl: float, open_ttl: float
) -> None:
    async with planted(bucket, tmp_path, ttl=ttl, open_ttl=open_ttl) as mount:
        if listed:
            await mount.names()
        look = mount.tree.finder.find_or_none
        assert await look(mount.root, "f") is None
        assert mount.tree.finder.negative_timeout(mount.root, "f") == pytest.approx(4, abs=0.1)
        bucket.poke("f", b"x")
        bucket.requested()
        await trio.sleep(2)
        assert mount.tree.finder.negative_timeout(mount.root, "f") == pytest.approx(2, abs=0.1)
        assert await look(mount.root, "f") is None
        assert bucket.requested() == {}
        await trio.sleep(2.1)
        assert mount.tree.finder.negative_timeout(mount.root, "f") == 0
        assert await look(mount.root, "f") is not None
        asked = {"ListObjectsV2": 1} if listed else {"HeadObject": 1, "ListObjectsV2": 1}
        assert bucket.requested() == asked


async def test_a_second_of_misses_in_a_known_directory_is_one_list(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("d/f", b"x")
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        await mount.names("d")
        for _ in range(3):
            await trio.sleep(CONFIG.open_ttl + 1)
            bucket.requested()
            for number in range(300):
                assert await mount.tree.finder.find_or_none(directory, f"no{number}") is None
            assert bucket.requested() == {"ListObjectsV2": 1}


async def test_own_files_in_a_known_directory_cost_one_list_a_second(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        await mount.mkdir("d")
        bucket.requested()
        for number in range(50):
            await mount.save(f"d/{number}", b"x")
        assert bucket.requested() == {"PutObject": 50}, "what is made here is known to be empty"
        await trio.sleep(CONFIG.open_ttl + 1)
        await mount.find("d")
        bucket.requested()
        for number in range(50, 60):
            await mount.save(f"d/{number}", b"x")
        assert bucket.requested() == {"PutObject": 10, "ListObjectsV2": 1}


async def test_a_name_that_could_not_be_removed_is_back_at_once(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("d/f", b"x")
    async with planted(bucket, tmp_path, writeback=True, ttl=DAY, open_ttl=DAY) as mount:
        await mount.names("d")
        bucket.refuse("DeleteObjects")
        await mount.unlink("d/f")
        with pytest.raises(StoreError, match="AccessDenied"):
            await mount.tree.removals.wait_for_directory(await mount.directory("d"))
        bucket.fault = None
        assert (await mount.find("d/f")).size == 1


@pytest.mark.parametrize("operation", ["DeleteObjects", "DeleteObject"])
async def test_a_directory_that_was_not_removed_by_its_renaming_is_back_at_once(
    bucket: Bucket, tmp_path: Path, operation: str
) -> None:
    bucket.poke("d/f", b"x")
    async with planted(bucket, tmp_path, ttl=DAY, open_ttl=DAY) as mount:
        await mount.names()
        bucket.refuse(operation)
        with contextlib.suppress(StoreError):
            await mount.rename("d", "e")
        bucket.fault = None
        if "d/f" in bucket.objects:
            assert (await mount.find("d/f")).size == 1
        assert (await mount.find("e/f")).size == 1


async def test_so_many_free_names_are_remembered(bucket: Bucket, tmp_path: Path) -> None:
    async with planted(bucket, tmp_path) as mount:
        fresh, root = mount.tree.state.freshness, mount.root
        for number in range(20_000):
            assert fresh.note_free(root, str(number), trio.current_time()) == (number < 10_000)
        await trio.sleep(CONFIG.open_ttl + 1)
        assert fresh.note_free(root, "later", trio.current_time())
        assert root.negatives.keys() == {"later"}


#: Seconds for which what never changes is trusted.
DAY = 86400.0
LARGE = 3000


@pytest.mark.parametrize("numbers", ["padded", "plain"])
async def test_files_in_order_in_a_large_directory_cost_one_list_a_second(
    bucket: Bucket, tmp_path: Path, numbers: str
) -> None:
    def name(number: int) -> str:
        return f"f{number:06}" if numbers == "padded" else f"f{number}"

    for number in range(LARGE):
        bucket.poke(f"d/{name(number)}", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names("d")
        for begin in range(LARGE, LARGE + 60, 20):
            await trio.sleep(CONFIG.open_ttl + 1)
            await mount.find("d")
            bucket.requested()
            for number in range(begin, begin + 20):
                await mount.save(f"d/{name(number)}", b"x")
            requested = bucket.requested()
            assert requested.pop("PutObject") == 20
            assert requested == {"ListObjectsV2": 1}


async def test_files_in_no_order_in_a_large_directory_are_asked_for_each(
    bucket: Bucket, tmp_path: Path
) -> None:
    for number in range(LARGE):
        bucket.poke(f"d/{number:04}x", b"x")
    bucket.page = 10  # a survey shows little
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        await mount.names("d")
        await trio.sleep(CONFIG.open_ttl + 1)
        bucket.requested()
        for number in range(20):
            look = mount.tree.finder.find_or_none(directory, f"{(number * 701) % LARGE:04}")
            assert await look is None
        assert bucket.requested() == {"HeadObject": 19, "ListObjectsV2": 19 + 1}


async def test_a_survey_shows_what_others_have_made(bucket: Bucket, tmp_path: Path) -> None:
    for number in range(LARGE):
        bucket.poke(f"d/{number:06}", b"x")
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        await mount.names("d")
        await trio.sleep(CONFIG.open_ttl + 1)
        for key in ("d/001000-file", "d/001000-directory/f", "d/001000-later"):
            bucket.poke(key, b"12")
        look = mount.tree.finder.find_or_none
        assert await look(directory, "001000-none") is None
        assert isinstance(await look(directory, "001000-directory"), Directory)
        assert (await mount.find("d/001000-file")).size == 2
        del bucket.objects["d/001000-later"]
        bucket.poke("d/001000-z", b"12")
        await trio.sleep(CONFIG.open_ttl + 1)
        assert await look(directory, "001000-z") is not None
        assert (await mount.tree.refresher.forget("d/001000-y")).missing
        bucket.poke("d/001000-zz", b"12")
        await mount.tree.refresher.forget("d")
        assert await look(directory, "001000-zz") is not None


async def test_a_survey_answers_only_for_names_it_shows_all_of(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The page ends between ``f-…`` and ``f/``."""
    for number in range(LARGE):
        bucket.poke(f"d/f-{number:06}", b"x")
    bucket.poke("d/f/deep", b"x")
    async with planted(bucket, tmp_path) as mount:
        directory = await mount.directory("d")
        await mount.names("d")
        await mount.rename("d/f", "d/g")
        bucket.poke("d/f/deep", b"x")
        await trio.sleep(CONFIG.open_ttl + 1)
        found = await mount.tree.finder.find_or_none(directory, "f")
        assert isinstance(found, Directory)


async def test_a_name_that_was_removed_here_is_known_to_be_free(
    bucket: Bucket, tmp_path: Path
) -> None:
    for name in "abc":
        bucket.poke(name, b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        await mount.find("b")
        await trio.sleep(CONFIG.open_ttl + 1)
        await mount.unlink("a")
        await mount.rename("b", "a")
        bucket.requested()
        for name in ("b", "b", "b"):
            assert await mount.tree.finder.find_or_none(mount.root, name) is None
        assert bucket.requested() == {}


async def test_what_others_removed_is_taken_from_the_kernel(bucket: Bucket, tmp_path: Path) -> None:
    told: list[str] = []

    class Watcher(Nobody):
        def moved(self, parent: Directory, name: str) -> None:
            told.append(name)

    for name in ("seen", "unseen", "stays", "opened"):
        bucket.poke(name, b"x")
    async with planted(bucket, tmp_path, watcher=Watcher()) as mount:
        await mount.names()
        for name in ("seen", "stays", "opened"):
            mount.tree.state.table.count(await mount.find(name))
        for name in ("seen", "unseen", "opened"):
            del bucket.objects[name]
        await trio.sleep(CONFIG.open_ttl + 1)
        with pytest.raises(FsError, match="ESTALE"):
            await mount.open("opened")
        assert told == ["opened"]
        assert await mount.names() == {"stays"}
        assert told == ["opened", "seen"]
        for name in ("file", "directory", "stays-free"):
            assert await mount.tree.finder.find_or_none(mount.root, name) is None
            assert mount.tree.finder.negative_timeout(mount.root, name) > 0
        bucket.poke("file", b"x")
        bucket.poke("directory/f", b"x")
        await trio.sleep(CONFIG.open_ttl + 1)
        await mount.names()
        assert sorted(told[2:]) == ["directory", "file"], "the kernel may take these for free"


async def test_own_files_show_at_once_under_a_remembered_free_name(
    bucket: Bucket, tmp_path: Path
) -> None:
    async with planted(bucket, tmp_path) as mount:
        assert await mount.tree.finder.find_or_none(mount.root, "f") is None
        await mount.save("f", b"x")
        bucket.requested()
        assert (await mount.find("f")).current_size == 1
        assert bucket.requested() == {}


async def test_attributes_are_asked_again_after_the_ttl(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"x", said(0o100600))
    async with planted(bucket, tmp_path) as mount:
        first = await mount.find("f")
        bucket.poke("f", b"longer", said(0o100644))
        await trio.sleep(TTL / 2)
        assert await mount.find("f") is first
        assert first.size == 1
        bucket.requested()
        await trio.sleep(TTL)
        second = await mount.find("f")
        assert second is first, "nobody has the old version open"
        assert (second.size, mount.tree.posix(second).mode) == (6, 0o100644)
        assert bucket.requested() == {"HeadObject": 1, "ListObjectsV2": 1}


async def test_lookups_of_one_name_at_once_ask_once(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("f", b"x")
    async with planted(bucket, tmp_path) as mount, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(mount.find, "f")
        await trio.sleep(1)
        assert bucket.requested() == {"HeadObject": 1, "ListObjectsV2": 1}


async def test_a_directory_shadows_the_object_of_its_name(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("a", b"file")
    bucket.poke("a/b", b"x")
    async with planted(bucket, tmp_path) as mount:
        assert isinstance(await mount.find("a"), Directory)
        assert await mount.names() == {"a"}
        assert isinstance(await mount.find("a"), Directory)
        await trio.sleep(TTL + 1)
        assert await mount.read("a/b") == b"x"


async def test_directories_of_every_kind(bucket: Bucket, tmp_path: Path) -> None:
    bucket.poke("marked/", b"", said(stat.S_IFDIR | 0o700))
    bucket.poke("implicit/f", b"x")
    bucket.poke("hadoop_$folder$", b"")
    bucket.poke("slashless", b"", Headers(content_type="application/x-directory"))
    async with planted(bucket, tmp_path) as mount:
        assert await mount.names() == {"marked", "implicit", "hadoop", "slashless"}
        for name in ("marked", "implicit", "hadoop", "slashless"):
            inode = await mount.find(name)
            assert isinstance(inode, Directory), name
            mode = mount.tree.posix(inode).mode
            assert mode == stat.S_IFDIR | (0o700 if name == "marked" else 0o755), name


async def test_a_key_too_long_for_a_directory_of_hadoop(bucket: Bucket, tmp_path: Path) -> None:
    above = "/".join(["p" * 203] * 5)
    bucket.poke(f"{above}/f", b"x")
    async with planted(bucket, tmp_path, hadoop_directories=True) as mount:
        assert await mount.read(f"{above}/f") == b"x"
        await mount.save(f"{above}/g", b"y")


@pytest.mark.parametrize("data", [b"bytes", b""])
async def test_a_file_in_the_place_of_a_directory_without_a_slash(
    bucket: Bucket, tmp_path: Path, data: bytes
) -> None:
    bucket.poke("d", b"", said(stat.S_IFDIR | 0o755))
    async with planted(bucket, tmp_path) as mount:
        assert isinstance(await mount.find("d"), Directory)
        await trio.sleep(TTL + 1)
        bucket.poke("d", b"", said(stat.S_IFDIR | 0o700))
        directory = await mount.find("d")
        assert isinstance(directory, Directory)
        assert directory.posix is not None
        assert directory.posix.mode == stat.S_IFDIR | 0o700
        await trio.sleep(TTL + 1)
        bucket.poke("d", data, said(stat.S_IFREG | 0o644))
        assert not isinstance(await mount.find("d"), Directory)
        assert await mount.read("d") == data


async def test_lookups_at_once_of_a_directory_without_a_slash_agree(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Who waits for another's HEAD gets the directory it turned out to be."""
    bucket.poke("d", b"", Headers(content_type="application/x-directory"))
    async with planted(bucket, tmp_path) as mount:
        await mount.names()
        found = []

        async def look() -> None:
            found.append(await mount.find("d"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            nursery.start_soon(look)
        assert found[0] is found[1]
        assert isinstance(found[0], Directory)


@pytest.mark.parametrize("read_only", [False, True])
async def test_what_is_not_there_is_so_where_nobody_may_list(
    bucket: Bucket, tmp_path: Path, read_only: bool
) -> None:
    """Who is told 404 of an object is told the truth, also without the right to list."""
    bucket.poke("d/f", b"x")
    async with planted(bucket, tmp_path, read_only=read_only) as mount:
        bucket.refuse("ListObjectsV2")
        for name in ("free", "d"):
            with pytest.raises(FsError) as caught:
                await mount.find(name)
            assert caught.value.errno == errno.ENOENT


async def test_a_failed_lookup_says_so_and_is_not_remembered(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("f", b"x")
    async with planted(bucket, tmp_path) as mount:
        bucket.refuse("HeadObject")
        with pytest.raises(Exception, match="AccessDenied"):
            await mount.find("f")
        bucket.fault = None
        assert (await mount.find("f")).size == 1


async def test_a_directory_with_unsaved_files_stays_though_the_bucket_lost_it(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("d/x", b"x")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("d/new")
        await mount.write(handle, 0, b"bytes")
        del bucket.objects["d/x"]
        await trio.sleep(TTL + 1)
        assert isinstance(await mount.find("d"), Directory)
        await mount.close(handle)
        assert mount.stored() == ["d/new"]


async def test_the_last_saved_file_goes_while_an_unsaved_one_is_there(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Without anyone else: the directory must exist all the time, and the file get its own key."""
    bucket.poke("d/x", b"x")
    async with planted(bucket, tmp_path) as mount:
        await mount.names("d")
        handle = await mount.create("d/new")
        await mount.write(handle, 0, b"bytes")
        await mount.unlink("d/x")
        await trio.sleep(TTL + 1)
        assert isinstance(await mount.find("d"), Directory)
        await mount.close(handle)
        assert [key for key in mount.stored() if not key.endswith("/")] == ["d/new"]


async def test_a_file_that_replaced_a_directory_does_not_detach_unsaved_files(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.poke("d/x", b"x")
    async with planted(bucket, tmp_path) as mount:
        handle = await mount.create("d/new")
        await mount.write(handle, 0, b"bytes")
        del bucket.objects["d/x"]
        bucket.poke("d", b"a file now")
        await trio.sleep(TTL + 1)
        await mount.names()
        await mount.find("d")
        await mount.close(handle)
        assert mount.stored() == ["d", "d/new"]
