"""Uploads that are changed on their way, and stores that make something else of them."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from crc32c import crc32c

from bucketfs.credentials import Anonymous
from bucketfs.errors import Damaged, StoreError
from bucketfs.store.aws.connection import connect
from bucketfs.store.aws.s3 import S3Store
from bucketfs.store.aws.sums import Checksums, multipart_etag, sums_of
from bucketfs.store.base import BytesBody, Headers, ObjectInfo, Store
from bucketfs.store.capability import Provider
from bucketfs.store.config import StoreConfig
from bucketfs.store.layers.fallback import FallbackStore
from bucketfs.store.opening import open_store
from tests.harness.memory import Fault, MemoryStore
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness
from tests.store.conftest import config_of
from tests.store.test_transport import CONFIG, OK, error, scripted, talking


def xml(body: str, etag: str) -> bytes:
    """An answer of 200."""
    name = body[1 : body.index(">")]
    text = f"<?xml version='1.0'?>{body}</{name}>".encode()
    return OK + b'Content-Length: %d\r\nETag: "%s"\r\n\r\n' % (len(text), etag.encode()) + text


def sum_of(data: bytes) -> str:
    """CRC-32C as S3 writes it."""
    return base64.b64encode(crc32c(data).to_bytes(4, "big")).decode()


PART = 5 << 20
PLAIN = Headers()
SMALL, LARGE = os.urandom(5000), os.urandom(PART)


@asynccontextmanager
async def through(proxy: Proxy, bucket: Witness, **settings: object) -> AsyncIterator[Store]:
    """The bucket, through a proxy."""
    config = replace(config_of(bucket), url=proxy.url, **settings)  # type: ignore[arg-type]
    async with open_store(config) as store:
        yield store


SIGNED = {"checksum": "off"}
MD5 = {"checksum": "md5", "unsigned_payload": True}


@pytest.mark.real_endpoint
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(SIGNED, marks=pytest.mark.needs("signed_sums")),
        pytest.param(MD5, marks=pytest.mark.needs("md5")),
    ],
    ids=["signature", "md5"],
)
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_body_that_is_changed_on_its_way_is_sent_again(
    counted: Proxy, bucket: Witness, settings: dict[str, object], data: bytes
) -> None:
    async with through(counted, bucket, **settings) as store:
        with counted.fault("PutObject", flip_sent=len(data) // 2, times=1) as fault:
            await store.put("k", BytesBody(data), PLAIN)
        assert fault.struck == 1
        assert bucket.get("k") == data
        upload = await store.create_upload("k", PLAIN)
        one = await store.upload_part("k", upload, 1, BytesBody(LARGE))
        with counted.fault("UploadPart", flip_sent=len(data) // 2, times=1) as fault:
            two = await store.upload_part("k", upload, 2, BytesBody(data))
        assert fault.struck == 1
        await store.complete("k", upload, [(1, one), (2, two)], size=PART + len(data))
        assert bucket.get("k") == LARGE + data


async def test_where_the_server_does_not_look_the_etag_tells(
    counted: Proxy, bucket: Witness
) -> None:
    """Moto takes any Content-MD5; Ceph sees to it that there is nothing to tell."""
    async with through(counted, bucket, **MD5) as store:
        await store.put("first", BytesBody(SMALL), PLAIN)
        with counted.fault("PutObject", flip_sent=7, times=1):
            if not bucket.endpoint.moto:
                await store.put("k", BytesBody(SMALL), PLAIN)
                assert bucket.get("k") == SMALL
                return
            with pytest.raises(Damaged) as raised:
                await store.put("k", BytesBody(SMALL), PLAIN)
            assert raised.value.etag == (await store.head("k")).etag
        upload = await store.create_upload("k", PLAIN)
        one = await store.upload_part("k", upload, 1, BytesBody(LARGE))
        with counted.fault("UploadPart", flip_sent=7, times=1) as fault:
            two = await store.upload_part("k", upload, 2, BytesBody(SMALL))
        assert fault.struck == 1
        await store.complete("k", upload, [(1, one), (2, two)], size=PART + len(SMALL))
        assert bucket.get("k") == LARGE + SMALL


@pytest.mark.needs("copied_parts")
async def test_a_multipart_upload_with_crc32c(bucket: Witness) -> None:
    """Sent and copied parts both have their sum named at the end."""
    config = replace(config_of(bucket), checksum="crc32c")
    async with open_store(config) as store:
        source = await store.put("s", BytesBody(LARGE), PLAIN)
        upload = await store.create_upload("k", PLAIN)
        copy = await store.copy_part(
            "k", upload, 1, source="s", start=0, stop=PART, source_if_match=source.etag
        )
        tail = await store.upload_part("k", upload, 2, BytesBody(SMALL))
        info = await store.complete("k", upload, [(1, copy), (2, tail)], size=PART + len(SMALL))
        assert info.size == PART + len(SMALL)
    assert bucket.get("k") == LARGE + SMALL


CREATED = xml("<InitiateMultipartUploadResult><UploadId>u</UploadId>", "e0")
COPIED = xml(f"<CopyPartResult><ETag>e1</ETag><ChecksumCRC32C>{sum_of(SMALL)}</ChecksumCRC32C>", "")
COMPLETED = xml("<CompleteMultipartUploadResult><ETag>e9-2</ETag>", "")


async def test_what_is_sent_with_crc32c() -> None:
    put = OK + b'Content-Length: 0\r\nETag: "e2"\r\n\r\n'
    head = OK + b'Content-Length: %d\r\nETag: "e9-2"\r\n\r\n' % (2 * len(SMALL))
    answers = [put, put, error(400, "BadDigest"), error(400, "BadDigest"), put]
    answers += [CREATED, COPIED, put, COMPLETED, head]
    async with talking(*answers, checksum="crc32c", retries=1) as (store, script):
        await store.put("k", BytesBody(b""), PLAIN)
        await store.put("k", BytesBody(SMALL), PLAIN)
        await store.put("k", BytesBody(SMALL), PLAIN)
        assert {seen.headers["x-amz-checksum-crc32c"] for seen in script.seen[1:]} == {
            sum_of(SMALL)
        }
        upload = await store.create_upload("k", PLAIN)
        parts = [
            (1, await store.copy_part("k", upload, 1, source="s", start=0, stop=5000)),
            (2, await store.upload_part("k", upload, 2, BytesBody(SMALL))),
        ]
        await store.complete("k", upload, parts, size=2 * len(SMALL))
    create, _, part, complete, _ = script.seen[-5:]
    assert create.headers["x-amz-checksum-algorithm"] == "CRC32C"
    assert part.headers["x-amz-checksum-crc32c"] == sum_of(SMALL)
    assert complete.body.count(f"<ChecksumCRC32C>{sum_of(SMALL)}</ChecksumCRC32C>".encode()) == 2


@pytest.mark.parametrize(
    ("settings", "sums"),
    [
        ({"checksum": "auto"}, set()),
        ({"checksum": "off", "unsigned_payload": True}, set()),
        ({"checksum": "md5"}, {"content-md5"}),
    ],
)
async def test_what_is_sent_otherwise(settings: dict[str, object], sums: set[str]) -> None:
    put = OK + b'Content-Length: 0\r\nETag: "e2"\r\n\r\n'
    async with talking(put, put, **settings) as (store, script):
        await store.put("k", BytesBody(SMALL), PLAIN)
        await store.put("k", BytesBody(SMALL), PLAIN)
    for seen in script.seen:
        assert {name for name in seen.headers if "md5" in name or "checksum" in name} == sums


def provider_of(url: str | None, checksum: str = "auto") -> Provider:
    return Provider(StoreConfig(bucket="b", credentials=Anonymous(), url=url, checksum=checksum))


def test_who_gets_crc32c_unasked() -> None:
    for url in (None, "https://1.r2.cloudflarestorage.com"):
        assert (provider_of(url).checksum, provider_of(url).sums_parts) == ("crc32c", True)
    assert not provider_of("https://storage.googleapis.com").checksum
    assert not provider_of(None, "off").checksum


@pytest.mark.parametrize("named", [True, False])
async def test_the_first_upload_tells_who_compares(named: bool) -> None:
    """Who knows the sum names it in the answer; parts are begun with it from then on."""
    put = OK + b'Content-Length: 0\r\nETag: "e2"\r\n'
    first = put + (b"x-amz-checksum-crc32c: whatever\r\n\r\n" if named else b"\r\n")
    async with scripted(first, put + b"\r\n") as script:
        config = replace(CONFIG, url=script.url)
        provider = Provider(config)
        assert (provider.checksum, provider.sums_parts) == ("crc32c", False)
        async with connect(config) as connection:
            store = S3Store(connection, config, provider)
            for key in ("a", "b"):
                await store.put(key, BytesBody(SMALL), PLAIN)
    carried = ["x-amz-checksum-crc32c" in seen.headers for seen in script.seen]
    assert carried == [True, named]
    assert provider.sums_parts == named


@pytest.mark.parametrize("operation", ["PutObject", "CreateMultipartUpload"])
async def test_a_server_that_does_not_know_checksums_is_asked_without(operation: str) -> None:
    provider = provider_of(None)
    refusal = StoreError("InvalidArgument", status=400)

    def fault(name: str, key: str, number: int) -> Fault | None:
        return Fault(refusal) if name == operation and provider.checksum else None

    memory = MemoryStore(fault=fault)
    store = FallbackStore(memory, provider)
    if operation == "PutObject":
        await store.put("k", BytesBody(b"x"), PLAIN, if_none_match=True)
    else:
        assert await store.create_upload("k", PLAIN)
    assert memory.requests == {operation: 2}
    assert not provider.checksum
    assert provider.capabilities.put_if_none_match


async def test_what_is_refused_for_another_reason_keeps_its_checksums() -> None:
    provider = provider_of(None)
    memory = MemoryStore(fault=lambda *_: Fault(StoreError("InvalidArgument", status=400)))
    with pytest.raises(StoreError, match="InvalidArgument"):
        await FallbackStore(memory, provider).put("k", BytesBody(b"x"), PLAIN)
    assert provider.checksum


ONE, TWO = "0" * 32, "1" * 32
OURS = multipart_etag([ONE, TWO])


def completed(sums: Checksums, etag: str, *, size: int = 9, named: str = "") -> ObjectInfo:
    found = ObjectInfo("k", size, etag, 5)
    return sums.completed(found, named=named, parts=[(1, ONE), (2, TWO)], size=9)


def test_what_a_completed_upload_may_have_become() -> None:
    config = StoreConfig(bucket="b", credentials=Anonymous(), url="http://host")
    sums = Checksums(config, Provider(config))
    assert completed(sums, OURS).etag == OURS
    # replaced by others just after
    assert completed(sums, "other", size=3, named=OURS) == ObjectInfo("k", 9, OURS, 0)
    for etag, size, named, ours in [
        ("f" * 32 + "-2", 9, "", ""),
        ("f" * 32 + "-2", 9, "f" * 32 + "-2", "f" * 32 + "-2"),
        (OURS, 8, "", OURS),
        ("other", 9, "", ""),
    ]:
        with pytest.raises(Damaged) as raised:
            completed(sums, etag, size=size, named=named)
        assert raised.value.etag == ours


@pytest.mark.parametrize("metadata", [{"mtime": "1.000000007"}, {"mtime": "1"}, {}])
def test_an_object_with_another_etag_than_its_upload(metadata: dict[str, str]) -> None:
    """As rclone's: it is ours if it says of itself what we did."""
    config = StoreConfig(bucket="b", credentials=Anonymous(), url="http://host")
    sums = Checksums(config, Provider(config))
    sent = {"mtime": "1.000000007"}
    sums.opened("u", {}, sent)
    found = ObjectInfo("k", 9, "f" * 32, 5, Headers(metadata))
    made = sums.completed(found, upload_id="u", named=OURS, parts=[(1, ONE), (2, TWO)], size=9)
    assert made.etag == (found.etag if metadata == sent else OURS)


def test_etags_that_are_no_md5_prove_nothing() -> None:
    config = StoreConfig(bucket="b", credentials=Anonymous(), url="http://host")
    sums = Checksums(config, Provider(config))
    assert completed(sums, "opaque").etag == "opaque"
    assert completed(sums, "f" * 32 + "-2").size == 9
    with pytest.raises(Damaged):
        completed(sums, "opaque", size=8)


def test_sums() -> None:
    sums = sums_of(BytesBody(b"123456789"), sha256=True, md5=True, crc=True)
    assert sums.crc32c == "4waSgw=="  # the check value e3069283 of the algorithm's catalogue
    assert sums.md5 is not None
    assert sums.md5.hex() == "25f9e794323b453885f5181f1b624d0b"
    assert sums_of(BytesBody(b"")).sha256 is None
