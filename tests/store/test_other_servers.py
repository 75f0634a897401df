"""What servers that CI does not have do otherwise, before one that does not."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace

import pytest

from bucketfs.errors import NotFound, PreconditionFailed
from bucketfs.store.base import BytesBody, Headers, is_etag
from bucketfs.store.opening import open_store
from tests.harness.http import Request
from tests.harness.proxy import Proxy
from tests.harness.seaweedfs import seaweedfs
from tests.harness.swift_s3api import careless, swift
from tests.harness.witness import Witness
from tests.store.conftest import config_of

PART = 5 << 20


@pytest.mark.needs("copied_parts")
async def test_a_condition_that_is_never_true_is_no_conflict(
    counted: Proxy, bucket: Witness
) -> None:
    data = os.urandom(PART)
    bucket.multipart("a", [data, b"tail"], mode="33188")
    config = replace(config_of(bucket), url=counted.url)
    async with open_store(config) as store:
        etag = (await store.head("a")).etag
        with swift(counted) as fault:
            upload = await store.create_upload("b", Headers())
            where = {"source": "a", "start": 0, "stop": PART}
            first = await store.copy_part("b", upload, 1, **where, source_if_match=etag)
            last = await store.upload_part("b", upload, 2, BytesBody(b"new"))
            await store.complete("b", upload, [(1, first), (2, last)], size=PART + 3)
            await store.copy("a", "c", size=PART + 4, source_if_match=etag)
            assert fault.struck == 2, "learned"
            with pytest.raises(PreconditionFailed):
                await store.copy("a", "d", size=PART + 4, source_if_match="0" * 32)
    assert bucket.get("b") == data + b"new"
    assert bucket.get("c") == data + b"tail"
    assert not bucket.exists("d")


async def test_a_true_conflict_is_none_of_the_condition(counted: Proxy, bucket: Witness) -> None:
    bucket.put("a", b"theirs")
    async with open_store(replace(config_of(bucket), url=counted.url)) as store:
        with swift(counted):
            for _ in range(2):
                with pytest.raises(PreconditionFailed):
                    await store.copy("a", "b", size=6, source_if_match="0" * 32)
        assert store.capabilities.copy_condition, "a HEAD confirms what the endpoint says"
        assert not bucket.exists("b")


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("new", [False, True])
async def test_a_repetition_without_a_condition_replaces_nobody(
    counted: Proxy, bucket: Witness, new: bool, theirs: bool
) -> None:
    """Swift: the answer to a PUT is lost, and another client is there before the next one."""
    etag = "" if new else bucket.put("f", b"old")

    def somebody_came_before(request: Request) -> bool:
        if theirs:
            bucket.put("f", b"theirs")
        return request.key == "f"

    async def save() -> None:
        headers = Headers({"mtime": "1.5"})
        await store.put("f", BytesBody(b"ours"), headers, if_match=etag, if_none_match=new)

    async with open_store(replace(config_of(bucket), url=counted.url)) as store:
        with careless(counted):
            # now it is known what it refuses
            await store.put("first", BytesBody(b""), Headers(), if_none_match=True)
            await store.settle("put_if_match")
            counted.clear()
            lost = {"reset": "before" if theirs else "after", "times": 1}
            refused = pytest.raises(PreconditionFailed) if theirs else nullcontext()
            with counted.fault("PutObject", when=somebody_came_before, **lost), refused:
                await save()
    assert bucket.get("f") == (b"theirs" if theirs else b"ours")
    assert counted.counts() == {"HeadObject": 2, "PutObject": 1}, counted.story()


@pytest.mark.needs("marker_metadata")
async def test_a_marker_that_cannot_be_copied_is_carried(counted: Proxy, bucket: Witness) -> None:
    bucket.put("d/", mode="16877")
    async with open_store(replace(config_of(bucket), url=counted.url)) as store:
        with seaweedfs(counted) as fault:
            info = await store.copy("d/", "e/", size=0)
            shown = (await store.head("e/")).etag
            assert info.etag == shown or not is_etag(shown)
            changed = Headers({"mode": "16832"})
            etag = (await store.head("d/")).etag
            await store.copy("d/", "f/", size=0, headers=changed, source_if_match=etag)
            await store.copy("d/", "i/", size=0, target_if_none_match=True)
            for absent in ("g/", "g"):
                with pytest.raises(NotFound):
                    await store.copy(absent, "h/", size=0)
            assert fault.struck == 4
    assert bucket.keys() == ["d/", "e/", "f/", "i/"]
    assert bucket.metadata("e/")["mode"] == "16877"
    assert bucket.metadata("f/")["mode"] == "16832"


@pytest.mark.needs("kept_markers")
async def test_a_marker_without_an_etag_says_nothing_of_files(
    counted: Proxy, bucket: Witness
) -> None:
    """s3proxy: of a marker it tells no ETag, and in listings no size either."""
    bucket.put("d/", mode="16877")
    etag = bucket.put("f", b"data")
    # where it is asked for "d" and has "d/"
    bucket.client.put_object(Bucket=bucket.name, Key="g", ContentType="application/x-directory")

    def is_of_a_directory(request: Request) -> bool:
        return request.key.endswith("/") or request.key == "g"

    async with open_store(replace(config_of(bucket), url=counted.url)) as store:
        with counted.fault("", strip="etag", when=is_of_a_directory):
            await store.put("e/", BytesBody(b""), Headers())
            assert not is_etag((await store.head("d/")).etag)
            assert not is_etag((await store.head("g")).etag)
            assert (await store.head("f")).etag == etag
        assert store.capabilities.etags
        assert store.capabilities.multipart
