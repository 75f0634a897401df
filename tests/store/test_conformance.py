"""What every `Store` does alike: run on the in-memory store and on the endpoint."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from bucketfs.errors import KeyTaken, NotFound, PreconditionFailed, StoreError
from bucketfs.store.base import BytesBody, Headers, ListPage, ObjectInfo, Store
from bucketfs.store.opening import open_store
from tests.harness.witness import Witness
from tests.store.conftest import Subject, config_of

PART = 5 << 20
PLAIN = Headers()


async def read(store: Store, key: str, **range_: object) -> bytes:
    data = bytearray()
    await store.get(key, data.extend, **range_)  # type: ignore[arg-type]
    return bytes(data)


async def write(store: Store, key: str, data: bytes = b"x") -> ObjectInfo:
    return await store.put(key, BytesBody(data), PLAIN)


async def list_all(
    store: Store, prefix: str = "", **options: object
) -> tuple[list[str], list[str]]:
    keys: list[str] = []
    prefixes: list[str] = []
    token: str | None = None
    while True:
        page: ListPage = await store.list(prefix, token=token, **options)  # type: ignore[arg-type]
        keys += (found.key for found in page.objects)
        prefixes += page.prefixes
        if (token := page.next_token) is None:
            return keys, prefixes


async def test_put_head_get(subject: Subject) -> None:
    headers = Headers(
        {"mode": "33188", "mtime": "1.5"}, "text/x-test", {"cache-control": "no-store"}
    )
    async with subject.open() as store:
        put = await store.put("a/b", BytesBody(b"hello"), headers)
        found = await store.head("a/b")
        assert (found.size, found.etag, found.headers) == (5, put.etag, headers)
        assert '"' not in found.etag
        assert found.last_modified > 1_500_000_000
        data = bytearray()
        got = await store.get("a/b", data.extend)
        assert (got, data) == (found, b"hello")


async def test_ranges(subject: Subject) -> None:
    async with subject.open() as store:
        await write(store, "k", bytes(range(100)))
        assert await read(store, "k", start=10, stop=20) == bytes(range(10, 20))
        assert await read(store, "k", start=90) == bytes(range(90, 100))
        assert await read(store, "k", start=90, stop=5000) == bytes(range(90, 100))
        sizes = await store.get("k", lambda piece: None, start=5, stop=6)
        assert sizes.size == 100
        with pytest.raises(StoreError) as refused:
            await read(store, "k", start=100, stop=101)
        assert refused.value.code == "InvalidRange"


async def test_empty_object(subject: Subject) -> None:
    async with subject.open() as store:
        put = await write(store, "k", b"")
        assert await read(store, "k") == b""
        assert await read(store, "k", start=0, stop=10) == b""
        assert await read(store, "k", start=0, stop=10, if_match=put.etag) == b""


async def test_missing(subject: Subject) -> None:
    async with subject.open() as store:
        for call in (store.head("no"), store.get("no", print), store.copy("no", "x", size=1)):
            with pytest.raises(NotFound):
                await call
        await store.delete("no")
        assert await store.delete_many(["no", "neither"]) == {}


async def test_big_body(subject: Subject) -> None:
    data = os.urandom(3 << 20)
    async with subject.open() as store:
        await write(store, "k", data)
        assert await read(store, "k") == data
        assert await read(store, "k", start=1 << 20, stop=2 << 20) == data[1 << 20 : 2 << 20]


async def test_get_pins_a_version(subject: Subject) -> None:
    async with subject.open() as store:
        old = await write(store, "k", b"old")
        assert await read(store, "k", if_match=old.etag) == b"old"
        await write(store, "k", b"new")
        with pytest.raises(PreconditionFailed):
            await read(store, "k", if_match=old.etag)
        with pytest.raises(PreconditionFailed):
            await read(store, "k", start=0, stop=2, if_match=old.etag)


async def test_conditional_put(subject: Subject) -> None:
    async with subject.open() as store:
        first = await store.put("k", BytesBody(b"1"), PLAIN, if_none_match=True)
        with pytest.raises(KeyTaken):
            await store.put("k", BytesBody(b"2"), PLAIN, if_none_match=True)
        second = await store.put("k", BytesBody(b"2"), PLAIN, if_match=first.etag)
        with pytest.raises(PreconditionFailed):
            await store.put("k", BytesBody(b"3"), PLAIN, if_match=first.etag)
        assert await read(store, "k") == b"2"
        await store.delete("k")
        with pytest.raises((NotFound, PreconditionFailed)):
            await store.put("k", BytesBody(b"3"), PLAIN, if_match=second.etag)


@pytest.mark.needs("metadata")
async def test_copy_keeps_or_replaces_headers(subject: Subject) -> None:
    async with subject.open() as store:
        await store.put("a", BytesBody(b"data"), Headers({"mode": "1"}, "text/plain"))
        await store.copy("a", "b", size=4)
        kept = (await store.head("b")).headers
        assert kept is not None
        assert (kept.metadata["mode"], kept.content_type) == ("1", "text/plain")
        copied = await store.copy("a", "a", size=4, headers=Headers({"mode": "2"}, "text/css"))
        found = await store.head("a")
        assert found.headers == Headers({"mode": "2"}, "text/css")
        assert found.etag == copied.etag
        assert await read(store, "b") == b"data"


@pytest.mark.needs("blanks")
@pytest.mark.parametrize(
    "value", ["two  blanks", "tab\tinside", "日\u3000本", "a\u00a0b\u0085c\u2028"]
)
async def test_blanks_in_metadata_are_signed_right(subject: Subject, value: str) -> None:
    """An endpoint that checks signatures knows blanks of ASCII only."""
    headers = Headers({"title": value})
    async with subject.open() as store:
        for _ in range(2):  # aiobotocore's way and the fast path
            await store.put("a", BytesBody(b"data"), headers)
        await store.copy("a", "a", size=4, headers=headers)
        assert (await store.head("a")).size == 4


async def test_copy_pins_a_version(subject: Subject) -> None:
    async with subject.open() as store:
        old = await write(store, "a", b"old")
        await store.copy("a", "b", size=3, source_if_match=old.etag)
        await write(store, "a", b"new")
        with pytest.raises(PreconditionFailed):
            await store.copy("a", "b", size=3, source_if_match=old.etag)


async def test_copy_onto_a_version(subject: Subject) -> None:
    async with subject.open() as store:
        await write(store, "a", b"new")
        old = await write(store, "b", b"old")
        with pytest.raises(KeyTaken):
            await store.copy("a", "b", size=3, target_if_none_match=True)
        with pytest.raises(PreconditionFailed):
            await store.copy("a", "b", size=3, target_if_match="0" * 32)
        assert await read(store, "b") == b"old"
        await store.copy("a", "b", size=3, target_if_match=old.etag)
        await store.copy("a", "c", size=3, target_if_none_match=True)
        assert await read(store, "b") == await read(store, "c") == b"new"
        with pytest.raises((NotFound, PreconditionFailed)):
            await store.copy("a", "d", size=3, target_if_match=old.etag)


async def test_delete_of_a_version(subject: Subject) -> None:
    async with subject.open() as store:
        old = await write(store, "k", b"old")
        new = await write(store, "k", b"new")
        with pytest.raises(PreconditionFailed):
            await store.delete("k", if_match=old.etag)
        assert await read(store, "k") == b"new"
        for _ in range(2):  # of one that is not there it is no error
            await store.delete("k", if_match=new.etag)
        assert await list_all(store) == ([], [])


@pytest.mark.parametrize("count", [2, 20])
async def test_delete_many_of_their_versions(subject: Subject, count: int) -> None:
    async with subject.open() as store:
        known = {}
        for number in range(count):
            known[f"d/{number}"] = (await write(store, f"d/{number}", b"%d" % number)).etag
        await write(store, "d/1", b"theirs")
        await store.delete("d/0")
        stayed = await store.delete_many([*known], if_match=known)
        assert {key: type(exc) for key, exc in stayed.items()} == {"d/1": PreconditionFailed}
        assert (await list_all(store, "d/"))[0] == ["d/1"]
        assert await read(store, "d/1") == b"theirs"


@pytest.mark.needs("no_directories")
async def test_delete_many(subject: Subject) -> None:
    keys = [f"d/{number}" for number in range(20)]
    async with subject.open() as store:
        for key in keys:
            await write(store, key)
        assert await store.delete_many(keys[1:]) == {}
        assert (await list_all(store, "d/"))[0] == keys[:1]
        await store.delete(keys[0])
        assert await list_all(store) == ([], [])


@pytest.mark.needs("order", "beside")
async def test_listing_merges_and_orders(subject: Subject) -> None:
    keys = ["a", "a!", "a/1", "a/2/x", "b/c", "z", "é", "\U0001f600"]
    async with subject.open() as store:
        for key in reversed(keys):
            await write(store, key)
        assert await list_all(store) == (["a", "a!", "z", "é", "\U0001f600"], ["a/", "b/"])
        assert await list_all(store, "a/") == (["a/1"], ["a/2/"])
        assert (await list_all(store, delimiter=""))[0] == sorted(keys)
        assert (await list_all(store, delimiter="", start_after="a/1"))[0] == keys[3:]
        assert await list_all(store, "nothing/") == ([], [])


async def test_pages(subject: Subject) -> None:
    keys = sorted(["a/1", "a/2", "b", "c/1", "c/2", "d", "e"])
    async with subject.open() as store:
        for key in keys:
            await write(store, key)
        assert await list_all(store, limit=2) == (["b", "d", "e"], ["a/", "c/"])
        assert (await list_all(store, delimiter="", limit=3))[0] == keys
        page = await store.list("", limit=2)
        assert len(page.objects) + len(page.prefixes) == 2


async def test_listing_tells_what_head_tells(subject: Subject) -> None:
    async with subject.open() as store:
        await write(store, "k", b"12345")
        (listed,) = (await store.list("")).objects
        found = await store.head("k")
        assert listed.headers is None
        assert (listed.size, listed.etag, listed.last_modified, listed.storage_class) == (
            found.size,
            found.etag,
            found.last_modified,
            found.storage_class,
        )


ODD = [
    "with space",
    "plus+",
    "per%20cent",
    "ü/é",
    "q?a=b&c#d",
    pytest.param("a//b", marks=pytest.mark.needs("any_key")),
    pytest.param("/lead", marks=pytest.mark.needs("any_key")),
    "tab\there",
    "a'\"<>&",
]


@pytest.mark.parametrize("key", [*ODD, "line\nbreak", "bell\x07"])
async def test_odd_keys(subject: Subject, key: str) -> None:
    if subject.kind == "moto" and ("\n" in key or key == "/lead"):
        pytest.skip("moto cannot store such keys")
    async with subject.open() as store:
        await store.put(key, BytesBody(b"data"), Headers({"mode": "1"}))
        assert (await store.head(key)).size == 4
        assert await read(store, key) == b"data"
        assert (await list_all(store, delimiter=""))[0] == [key]
        await store.copy(key, key + "2", size=4)
        assert await store.delete_many([key]) == {}
        assert (await list_all(store, delimiter=""))[0] == [key + "2"]
        await store.delete(key + "2")


async def test_keys_nobody_can_store(subject: Subject) -> None:
    async with subject.open() as store:
        with pytest.raises(StoreError) as refused:
            await write(store, "bad\udcff")
        assert refused.value.code == "InvalidUtf8"


@pytest.mark.needs("key_limit")
async def test_keys_that_are_too_long(subject: Subject) -> None:
    async with subject.open() as store:
        with pytest.raises(StoreError):
            await write(store, "k" * 1025)


@pytest.mark.needs("metadata")
async def test_multipart(subject: Subject) -> None:
    data = os.urandom(PART + 1000)
    # a time in nanoseconds tells whose it is where the ETag is another than was told
    headers = Headers({"mode": "33188", "mtime": "1700000000.123456789"}, "text/plain")
    async with subject.open() as store:
        upload = await store.create_upload("k", headers)
        assert [found.upload_id for found in await store.list_uploads("")] == [upload]
        assert list(await store.list_uploads("other/")) == []
        second = await store.upload_part("k", upload, 2, BytesBody(data[PART:]))
        first = await store.upload_part("k", upload, 1, BytesBody(data[:PART]))
        with pytest.raises(NotFound):
            await store.head("k")
        done = await store.complete("k", upload, [(1, first), (2, second)], size=len(data))
        found = await store.head("k")
        assert (found.etag, found.size, found.headers) == (done.etag, len(data), headers)
        assert await read(store, "k") == data
        assert list(await store.list_uploads("")) == []


@pytest.mark.needs("copied_parts")
async def test_copied_parts(subject: Subject) -> None:
    data = os.urandom(PART + 1000)
    async with subject.open() as store:
        source = await write(store, "old", data)
        upload = await store.create_upload("k", PLAIN)
        first = await store.copy_part(
            "k", upload, 1, source="old", start=0, stop=PART, source_if_match=source.etag
        )
        tail = await store.upload_part("k", upload, 2, BytesBody(b"tail"))
        await store.complete("k", upload, [(1, first), (2, tail)], size=PART + 4)
        assert await read(store, "k") == data[:PART] + b"tail"


async def test_aborted_upload(subject: Subject) -> None:
    async with subject.open() as store:
        upload = await store.create_upload("k", PLAIN)
        await store.upload_part("k", upload, 1, BytesBody(b"data"))
        await store.abort("k", upload)
        await store.abort("k", upload)
        assert list(await store.list_uploads("")) == []
        with pytest.raises(NotFound):
            await store.head("k")


async def test_conditional_complete(subject: Subject) -> None:
    async with subject.open() as store:
        old = await write(store, "k", b"old")
        upload = await store.create_upload("k", PLAIN)
        part = (1, await store.upload_part("k", upload, 1, BytesBody(b"new")))
        with pytest.raises(KeyTaken):
            await store.complete("k", upload, [part], size=3, if_none_match=True)
        with pytest.raises(PreconditionFailed):
            await store.complete("k", upload, [part], size=3, if_match="0" * 32)
        await store.complete("k", upload, [part], size=3, if_match=old.etag)
        assert await read(store, "k") == b"new"


@pytest.mark.needs("part_limit")
async def test_small_parts_are_refused(subject: Subject) -> None:
    async with subject.open() as store:
        upload = await store.create_upload("k", PLAIN)
        parts = [
            (number, await store.upload_part("k", upload, number, BytesBody(b"small")))
            for number in (1, 2)
        ]
        with pytest.raises(StoreError) as refused:
            await store.complete("k", upload, parts, size=10)
        assert refused.value.code == "EntityTooSmall"
        await store.abort("k", upload)


async def test_check(subject: Subject) -> None:
    async with subject.open() as store:
        await store.check()
        assert await list_all(store) == ([], [])


@pytest.mark.needs("versions")
@pytest.mark.parametrize("first", ["if_match", "if_none_match"])
async def test_versioning_that_is_switched_on_later(
    bucket: Witness, outlives: ExitStack, first: str
) -> None:
    """Ceph 16 refuses every If-Match then, and ignores If-None-Match."""
    async with open_store(config_of(bucket)) as store:
        await store.check()
        old = await store.put("k", BytesBody(b"old"), PLAIN)
        bucket.versioning()
        outlives.callback(bucket.forget_versions)
        if first == "if_none_match":
            await store.put("new", BytesBody(b"new"), PLAIN, if_none_match=True)
        new = await store.put("k", BytesBody(b"new"), PLAIN, if_match=old.etag)
        assert bucket.get("k") == b"new"
        with pytest.raises(PreconditionFailed):
            await store.put("k", BytesBody(b"other"), PLAIN, if_match=old.etag)
        with pytest.raises(PreconditionFailed):
            await store.put("k", BytesBody(b"other"), PLAIN, if_none_match=True)
        await store.put("k", BytesBody(b"third"), PLAIN, if_match=new.etag)
        assert bucket.get("k") == b"third"
