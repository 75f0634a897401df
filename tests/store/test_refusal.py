"""Endpoints that refuse a header which a request could do without: no call fails for it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace

import pytest

from bucketfs.credentials import Anonymous
from bucketfs.errors import KeyTaken, PreconditionFailed, StoreError, Unsupported
from bucketfs.store import capability
from bucketfs.store.base import BytesBody, Capabilities, Headers, Store
from bucketfs.store.capability import Provider
from bucketfs.store.config import StoreConfig
from bucketfs.store.opening import open_store
from bucketfs.store.refusal import as_taken
from tests.harness.http import Request
from tests.harness.minio import minio
from tests.harness.proxy import Fault, Proxy
from tests.harness.witness import Witness
from tests.store.conftest import config_of

#: Many conditions are sent, and some refused: those that go through are to hold.
pytestmark = pytest.mark.needs("conditions")

PART = 5 << 20
LARGE, SMALL = os.urandom(PART), os.urandom(1000)
#: Everything that can be said of an object.
HEADERS = Headers(
    {"mode": "33188"},
    "text/plain",
    {
        "cache-control": "no-cache",
        "content-disposition": "inline",
        "content-encoding": "x-none",
        "content-language": "de",
        "expires": "Sat, 21 Nov 2026 07:39:22 GMT",
    },
)
#: What no request can do without, or what nobody but the options of the mount asks for.
NEEDED = frozenset(
    {
        "accept-encoding", "authorization", "connection", "content-length", "host", "range",
        "user-agent", "x-amz-content-sha256", "x-amz-copy-source", "x-amz-copy-source-range",
        "x-amz-date", "x-amz-metadata-directive",
    }
)  # fmt: skip
_DESCRIPTIONS = {
    "cache-control", "content-disposition", "content-encoding", "content-language",
    "content-type", "expires", "x-amz-meta-mode",
}  # fmt: skip
#: What may be refused, by operation: `test_these_are_all` finds it in what is sent.
OPTIONAL = {
    "PutObject": {"content-md5", "if-match", "if-none-match", "x-amz-checksum-crc32c"}
    | _DESCRIPTIONS,
    "GetObject": {"if-match"},
    "CopyObject": {"if-match", "if-none-match", "x-amz-copy-source-if-match"} | _DESCRIPTIONS,
    "CreateMultipartUpload": {"x-amz-checksum-algorithm"} | _DESCRIPTIONS,
    "UploadPart": {"content-md5", "x-amz-checksum-crc32c"},
    "UploadPartCopy": {"x-amz-copy-source-if-match"},
    "CompleteMultipartUpload": {"if-match", "if-none-match"},
    "DeleteObject": {"if-match"},
    "DeleteObjects": {"x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"},
}
REFUSALS = [(501, "NotImplemented"), (400, "InvalidArgument"), (400, "InvalidRequest")]


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send conditions with everything, also to a server that nobody knows."""
    able = replace(capability.UNKNOWN, capabilities=Capabilities(), unknown=frozenset())
    monkeypatch.setattr(capability, "UNKNOWN", able)


@asynccontextmanager
async def through(proxy: Proxy, bucket: Witness, checksum: str) -> AsyncIterator[Store]:
    config = replace(config_of(bucket), url=proxy.url, checksum=checksum)
    async with open_store(config) as store:
        yield store


async def use(store: Store, bucket: Witness) -> None:
    """Every request with everything that it may carry."""
    new = await store.put("a", BytesBody(SMALL), HEADERS, if_none_match=True)
    with pytest.raises(KeyTaken):
        await store.put("a", BytesBody(LARGE), HEADERS, if_none_match=True)
    old = await store.put("a", BytesBody(LARGE), HEADERS, if_match=new.etag)
    with pytest.raises(PreconditionFailed):
        await store.put("a", BytesBody(SMALL), HEADERS, if_match=new.etag)
    got = bytearray()
    await store.get("a", got.extend, start=0, stop=PART, if_match=old.etag)
    assert got == LARGE
    with pytest.raises(PreconditionFailed):
        await store.get("a", got.extend, start=0, stop=PART, if_match=new.etag)
    await store.copy("a", "b", size=PART, headers=HEADERS, source_if_match=old.etag)
    assert bucket.get("b") == LARGE
    copied = await store.copy("a", "d", size=PART, target_if_none_match=True)
    await store.copy("a", "d", size=PART, target_if_match=copied.etag)
    await store.delete("d", if_match=copied.etag)
    await append(store, "a", old.etag, "c", if_none_match=True)
    await append(store, "a", old.etag, "a", if_match=old.etag)
    assert bucket.get("a") == bucket.get("c") == LARGE + SMALL
    assert await store.delete_many(["b", "c"]) == {}
    assert bucket.keys() == ["a"]


async def append(store: Store, source: str, etag: str, target: str, **condition: object) -> None:
    """Make an object of another and some bytes, as the file layer does."""
    while True:
        able = store.capabilities
        upload = await store.create_upload(target, HEADERS, copies=True)
        try:
            one = await store.copy_part(
                target, upload, 1, source=source, start=0, stop=PART, source_if_match=etag
            )
            break
        except Unsupported:
            await store.abort(target, upload)
            assert store.capabilities != able
    two = await store.upload_part(target, upload, 2, BytesBody(SMALL))
    parts = [(1, one), (2, two)]
    await store.complete(target, upload, parts, size=PART + len(SMALL), **condition)  # type: ignore[arg-type]


def sent(proxy: Proxy) -> dict[str, set[str]]:
    """Headers by operation, those that are needed left out."""
    seen: dict[str, set[str]] = {}
    for request in proxy.requests:
        seen.setdefault(request.operation, set()).update(set(request.headers) - NEEDED)
    return {operation: names for operation, names in seen.items() if names}


@pytest.mark.needs("checksums")
async def test_these_are_all(counted: Proxy, bucket: Witness) -> None:
    for checksum in ("crc32c", "md5"):
        async with through(counted, bucket, checksum) as store:
            await use(store, bucket)
            await store.delete("a")
    assert sent(counted) == OPTIONAL


@contextmanager
def refusing(proxy: Proxy, operation: str, header: str, status: int, code: str) -> Iterator[Fault]:
    def carries(request: Request) -> bool:
        return header in request.headers

    with proxy.fault(operation, when=carries, status=status, code=code) as fault:
        yield fault


def cases() -> Iterator[object]:
    for operation, headers in OPTIONAL.items():
        for number, header in enumerate(sorted(headers)):
            status, code = REFUSALS[number % len(REFUSALS)]
            case = (operation, header, status, code)
            needed = ["checksums"] if header.startswith("x-amz-checksum") else []
            needed += ["unsummed_parts"] if needed and operation == "UploadPart" else []
            marks = pytest.mark.needs(*needed)
            yield pytest.param(*case, id=f"{operation}-{header}-{status}", marks=marks)


@pytest.mark.slow("a client a case: half a second each")
@pytest.mark.parametrize(("operation", "header", "status", "code"), list(cases()))
async def test_each_header_may_be_refused(
    counted: Proxy, bucket: Witness, operation: str, header: str, status: int, code: str
) -> None:
    """Every call succeeds, conditions hold all the same, and soon nothing is refused any more."""
    checksum = "md5" if header == "content-md5" else "crc32c"
    async with through(counted, bucket, checksum) as store:
        with refusing(counted, operation, header, status, code) as fault:
            await use(store, bucket)
            assert fault.struck >= 1
            struck = fault.struck
            await store.delete("a")
            await use(store, bucket)
            assert fault.struck == struck, "learned"


async def test_all_of_them_may_be_refused(counted: Proxy, bucket: Witness) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(through(counted, bucket, "crc32c"))
        for operation, headers in OPTIONAL.items():
            for header in headers:
                stack.enter_context(refusing(counted, operation, header, *REFUSALS[0]))
        await use(store, bucket)


@pytest.mark.needs("checksums")
async def test_copies_into_an_upload_with_checksums(counted: Proxy, bucket: Witness) -> None:
    async with through(counted, bucket, "crc32c") as store:
        old = await store.put("a", BytesBody(LARGE), HEADERS)
        with minio(counted) as fault:
            await append(store, "a", old.etag, "b")
            assert fault.struck == 1
            await append(store, "a", old.etag, "c")
            assert fault.struck == 1, "learned"
            upload = await store.create_upload("d", HEADERS)
            await store.upload_part("d", upload, 1, BytesBody(SMALL))
    assert bucket.get("b") == bucket.get("c") == LARGE + SMALL
    assert "x-amz-checksum-crc32c" in counted.requests[-1].headers, "other uploads keep theirs"


async def test_what_is_refused_for_another_reason_is_told_as_it_was() -> None:
    provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
    able = provider.capabilities
    tries = 0

    async def send() -> None:
        nonlocal tries
        tries += 1
        raise StoreError("InvalidArgument", status=400, message=str(tries))

    with pytest.raises(StoreError) as raised:
        await as_taken(provider, send, "put_if_match", "user_metadata")
    assert (raised.value.message, tries) == ("1", 4)
    assert provider.capabilities == able


@pytest.mark.parametrize(
    ("code", "status"),
    [("EntityTooLarge", 400), ("BadDigest", 400), ("AccessDenied", 403), ("SlowDown", 503)],
)
async def test_what_says_why_is_not_tried_again(code: str, status: int) -> None:
    provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
    tries: list[Callable[[], None]] = []

    async def send() -> None:
        tries.append(lambda: None)
        raise StoreError(code, status=status)

    with pytest.raises(StoreError, match=code):
        await as_taken(provider, send, "put_if_match")
    assert len(tries) == 1
