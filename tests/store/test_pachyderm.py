"""An S3 gateway of Pachyderm: what is learned of it by reading, and what its refusals mean."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from bucketfs.credentials import Anonymous, StaticKeys
from bucketfs.errors import NotFound, PreconditionFailed, StoreError, Unsupported, errno_of
from bucketfs.store.base import BytesBody, Headers, Store
from bucketfs.store.config import StoreConfig
from bucketfs.store.opening import open_store
from tests.harness.pachyderm import Branch, Gateway, pachyderm

TOKEN = "t0ken-of-pachyderm"
BUCKET = "master.data"
NAMED = Headers({"mode": "33188"})
MIB = 1 << 20


@pytest.fixture(params=[1, 2], ids=["1.x", "2.x"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    with pachyderm(request.param, BUCKET, token=TOKEN) as running:
        yield running


@asynccontextmanager
async def opened(
    gateway: Gateway, bucket: str = BUCKET, known: Path | None = None, *, signature_v2: bool = False
) -> AsyncIterator[Store]:
    """A store that has made the request that a mount begins with."""
    config = StoreConfig(
        bucket=bucket,
        credentials=StaticKeys(TOKEN, TOKEN),
        url=gateway.url,
        region="us-east-1",
        retries=0,
        signature_v2=signature_v2,
        known=known,
    )
    async with open_store(config) as store:
        await store.check()
        yield store


async def test_nothing_is_tried_out_by_writing(gateway: Gateway) -> None:
    """Whoever takes a listing of version 2 for one of version 1 honours no conditions."""
    async with opened(gateway) as store:
        first = await store.put("a", BytesBody(b"1"), NAMED, if_none_match=True)
        await store.put("a", BytesBody(b"2"), NAMED, if_match=first.etag)
        await store.copy("a", "b", size=1, target_if_none_match=True)
        with pytest.raises(PreconditionFailed):
            await store.copy("a", "b", size=1, target_if_none_match=True)
        with pytest.raises(PreconditionFailed):
            await store.put("a", BytesBody(b"3"), NAMED, if_match=first.etag)
        with pytest.raises(PreconditionFailed):
            await store.delete("a", if_match=first.etag)
    assert [key for _, key in gateway.made] == ["a", "a", "b"]
    assert gateway.read(BUCKET, "b") == b"2"


async def test_a_copy_under_a_true_condition(gateway: Gateway) -> None:
    async with opened(gateway) as store:
        made = await store.put("a", BytesBody(b"1"), NAMED)
        for target in ("b", "c"):
            await store.copy("a", target, size=1, source_if_match=made.etag)
        assert gateway.requests["PUT Object copy"] == 4, "refused twice"
        gateway.put(BUCKET, "a", b"of others")
        with pytest.raises(PreconditionFailed):
            await store.copy("a", "b", size=1, source_if_match=made.etag)
    assert gateway.keys(BUCKET) == ["a", "b", "c"]


@pytest.mark.parametrize("there", ["", "theirs", "dir/theirs"])
async def test_markers_that_are_not_kept(gateway: Gateway, there: str) -> None:
    """Shown by any file: with a slash behind its name it is refused, or the same again."""
    if there:
        gateway.put(BUCKET, there, b"content")
    async with opened(gateway) as store:
        await store.put("d/", BytesBody(b""), NAMED, if_none_match=True)
        assert not store.capabilities.markers
        with pytest.raises(NotFound):
            await store.head("theirs/")
    assert gateway.keys(BUCKET) == ([there] if there else [])
    unavoidable = not there and gateway.major == 2
    assert len(gateway.made) == (2 if unavoidable else 0), gateway.made


async def test_wrong_keys_say_nothing_of_markers(gateway: Gateway) -> None:
    async with opened(gateway) as store:
        gateway.token = "renewed"
        with pytest.raises(StoreError) as caught:
            await store.put("d/", BytesBody(b""), NAMED)
        assert errno_of(caught.value) == errno.EACCES
        assert store.capabilities.markers


async def test_metadata_that_is_not_kept(gateway: Gateway, tmp_path: Path) -> None:
    """The object that was stored last tells; nothing is stored for it."""
    link = replace(NAMED, essential=True)
    known = tmp_path / "known.json"
    async with opened(gateway, known=known) as store:
        made = await store.put("a", BytesBody(b"1"), NAMED)
        same = await store.copy("a", "a", size=1, headers=NAMED, source_if_match=made.etag)
        assert same.etag == made.etag
        with pytest.raises(Unsupported):
            await store.put("link", BytesBody(b"a"), link)
    async with opened(gateway, known=known) as store:
        with pytest.raises(Unsupported):
            await store.put("link", BytesBody(b"a"), link)
    assert gateway.made == [("PUT", "a")]


async def test_metadata_of_a_file_of_others(gateway: Gateway) -> None:
    """A copy onto itself is refused: nothing that the object has would have changed."""
    gateway.put(BUCKET, "theirs", b"1")
    async with opened(gateway) as store:
        found = await store.head("theirs")
        same = await store.copy("theirs", "theirs", size=1, headers=NAMED)
        assert same.etag == found.etag
        assert not store.capabilities.user_metadata
    assert gateway.made == []


async def test_parts_are_copied_by_hand(gateway: Gateway) -> None:
    """What should copy one stores an empty part."""
    gateway.put(BUCKET, "a", bytes(5 * MIB))
    async with opened(gateway) as store:
        upload = await store.create_upload("b", NAMED)
        with pytest.raises(Unsupported):
            await store.copy_part("b", upload, 1, source="a", start=0, stop=5 * MIB)
        parts = [
            (n, await store.upload_part("b", upload, n, BytesBody(bytes(size))))
            for n, size in ((1, 5 * MIB), (2, 1))
        ]
        info = await store.complete("b", upload, parts, size=5 * MIB + 1)
        assert info.size == 5 * MIB + 1
    assert gateway.made == [("COMPLETE", "b")]


async def test_what_is_no_place_to_write_to(gateway: Gateway) -> None:
    gateway.branches["master.out"] = Branch(output=True)
    gateway.put("master.out", "a", b"1")
    async with opened(gateway, "master.out") as store:
        actions = [
            lambda: store.put("b", BytesBody(b"1"), NAMED, if_none_match=True),
            lambda: store.copy("a", "b", size=1),
            lambda: store.delete("a"),
        ]
        for action in actions:
            gateway.requests.clear()
            with pytest.raises(StoreError) as caught:
                await action()
            assert errno_of(caught.value) == errno.EROFS, caught.value
            assert sum(gateway.requests.values()) <= 2, "not asked again"
        (failure,) = (await store.delete_many(["a"])).values()
        assert errno_of(failure) == errno.EROFS
        gateway.branches["master.out"].output = False
        with pytest.raises(StoreError) as caught:
            await store.put("n*me", BytesBody(b"1"), NAMED)
        assert errno_of(caught.value) == errno.EINVAL


@pytest.mark.parametrize("token", [TOKEN, None], ids=["token", "no authentication"])
async def test_signature_version_2(token: str | None) -> None:
    """The gateway signs no header of Amazon's own: those that can be gone without are."""
    with pachyderm(2, BUCKET, token=token) as gateway:
        async with opened(gateway, signature_v2=True) as store:
            assert (await store.list("")).objects == []
            made = await store.put("a", BytesBody(b"1"), NAMED, if_none_match=True)
            await store.copy("a", "b", size=1, source_if_match=made.etag)
            upload = await store.create_upload("c", NAMED)
            part = await store.upload_part("c", upload, 1, BytesBody(b"3"))
            await store.complete("c", upload, [(1, part)], size=1)
            assert [info.key for info in (await store.list("")).objects] == ["a", "b", "c"]
            assert await store.delete_many(["a", "b"]) == {}
        assert gateway.keys(BUCKET) == ["c"]


async def test_a_key_that_may_not_write_is_told_so_with_version_2() -> None:
    with pachyderm(2, BUCKET, token=TOKEN) as gateway:
        async with opened(gateway, signature_v2=True) as store:
            gateway.token = "another"
            with pytest.raises(StoreError) as caught:
                await store.put("a", BytesBody(b"1"), NAMED)
            assert errno_of(caught.value) == errno.EACCES
            assert store.capabilities.user_metadata


async def test_without_keys() -> None:
    with pachyderm(2, BUCKET) as gateway:
        config = StoreConfig(bucket=BUCKET, credentials=Anonymous(), url=gateway.url, region="x")
        async with open_store(config) as store:
            await store.put("a", BytesBody(b"1"), NAMED)
        gateway.token = TOKEN
        async with open_store(config) as store:
            with pytest.raises(StoreError, match="NoRights"):
                await store.check()


async def test_a_commit_is_a_bucket(gateway: Gateway) -> None:
    gateway.put(BUCKET, "a", b"old")
    (commit,) = gateway.branches[BUCKET].commits
    gateway.put(BUCKET, "a", b"new")
    name = f"{commit}.{BUCKET}" if gateway.major == 2 else f"{commit}.data"
    body = bytearray()
    async with opened(gateway, name) as store:
        await store.get("a", body.extend)
    assert body == b"old"


async def test_pages(gateway: Gateway) -> None:
    for key in ("a/1", "b/1", "b/2", "c", "d/1"):
        gateway.put(BUCKET, key, b"x")
    async with opened(gateway) as store:
        seen: list[str] = []
        token = None
        while True:
            page = await store.list("", token=token, limit=1)
            seen += page.prefixes + [info.key for info in page.objects]
            if (token := page.next_token) is None:
                break
    assert seen == ["a/", "b/", "c", "d/"]


class TestTheGateway:
    """The emulated one, as boto3 sees it."""

    @pytest.fixture
    def client(self, gateway: Gateway) -> object:
        return boto3.client(
            "s3",
            endpoint_url=gateway.url,
            aws_access_key_id=TOKEN,
            aws_secret_access_key=TOKEN,
            region_name="us-east-1",
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
            ),
        )

    def test_buckets(self, gateway: Gateway, client: object) -> None:
        client.create_bucket(Bucket="dev.data")  # type: ignore[attr-defined]
        names = [b["Name"] for b in client.list_buckets()["Buckets"]]  # type: ignore[attr-defined]
        suffix = ".default" if gateway.major == 2 else ""
        assert names == [f"master.data{suffix}", f"dev.data{suffix}"]
        with pytest.raises(ClientError, match="BucketAlreadyOwnedByYou"):
            client.create_bucket(Bucket="data")  # type: ignore[attr-defined]
        client.delete_bucket(Bucket="dev.data")  # type: ignore[attr-defined]
        with pytest.raises(ClientError, match="NoSuchBucket"):
            client.list_objects(Bucket="dev.data")  # type: ignore[attr-defined]

    def test_versions(self, gateway: Gateway, client: object) -> None:
        """The commit is the version; 2.x answers what is there now, whichever is asked for."""
        put = client.put_object  # type: ignore[attr-defined]
        old = put(Bucket=BUCKET, Key="a", Body=b"old")["VersionId"]
        put(Bucket=BUCKET, Key="a", Body=b"new")
        assert old in gateway.branches[BUCKET].commits
        got = client.get_object(Bucket=BUCKET, Key="a", VersionId=old)  # type: ignore[attr-defined]
        assert got["VersionId"] == old
        assert got["Body"].read() == (b"new" if gateway.major == 2 else b"old")
        with pytest.raises(ClientError, match="NotImplemented"):
            client.list_object_versions(Bucket=BUCKET)  # type: ignore[attr-defined]
