"""A server that lies about what it sends: its bytes are not used, and it is asked again."""

from __future__ import annotations

import errno
import gzip
import logging

import pytest

from bucketfs.errors import NoAnswer, PreconditionFailed, StoreError, advice, errno_of
from tests.store.test_transport import CUT, Seen, error, talking

SIZE = 300
OBJECT = bytes(at % 251 for at in range(SIZE))
JUNK = b"\xee" * SIZE
MODIFIED = "Last-Modified: Sat, 21 Nov 2026 07:39:22 GMT"


def answer(status: int, body: bytes, *headers: str, etag: str = '"e1"', length: str = "") -> bytes:
    lines = [
        f"HTTP/1.1 {status} X",
        f"ETag: {etag}",
        MODIFIED,
        f"Content-Length: {length or len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", 'ETag: "e1"', MODIFIED, "Transfer-Encoding: chunked", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def label(start: int, stop: int, size: int | str = SIZE) -> str:
    return f"Content-Range: bytes {start}-{stop - 1}/{size}"


HEAD = answer(200, b"", length=str(SIZE))
RIGHT = label(100, 200)
TRUTH = answer(206, OBJECT[100:200], RIGHT)
PACKED = gzip.compress(OBJECT[100:200])

#: Answers to a request of bytes 100-199, by what is wrong with them.
LIES: dict[str, list[bytes]] = {
    "another range": [answer(206, JUNK[:100], label(101, 201))],
    "an earlier range": [answer(206, JUNK[:100], label(0, 100))],
    "a longer range": [answer(206, JUNK[:150], label(100, 250))],
    "a range from 0": [answer(206, JUNK[:200], label(0, 200))],
    "a shorter range": [answer(206, JUNK[:50], label(100, 150))],
    "a range of another size": [answer(206, JUNK[:100], label(100, 200, 301))],
    "a short body": [answer(206, JUNK[:50], RIGHT)],
    "nothing": [answer(206, b"", RIGHT)],
    "an empty whole": [answer(200, b"")],
    "a long body": [answer(206, JUNK[:150], RIGHT)],
    "a long body in chunks": [chunked(206, JUNK[:150], RIGHT)],
    "no range": [answer(206, JUNK[:100])],
    "a range in words": [answer(206, JUNK[:100], "Content-Range: all of it")],
    "a range in items": [answer(206, JUNK[:100], "Content-Range: items 100-199/300")],
    "several ranges": [
        answer(206, JUNK[:100], "Content-Type: multipart/byteranges; boundary=b"),
    ],
    "several labelled ranges": [
        answer(206, JUNK[:100], RIGHT, "Content-Type: multipart/byteranges; boundary=b")
    ],
    "encoded": [answer(206, PACKED, RIGHT, "Content-Encoding: gzip")],
    "encoded in chunks": [chunked(206, PACKED, RIGHT, "Content-Encoding: gzip")],
    "a whole that is labelled as another part": [answer(200, JUNK[:100], label(101, 201))],
    "a whole that is labelled as a longer part": [answer(200, JUNK[:100], label(100, 250))],
    "a whole that is labelled as a shorter part": [answer(200, JUNK[:50], label(100, 150))],
    "a whole that is the part": [answer(200, JUNK[:100])],
    "a whole that is encoded": [answer(200, JUNK[:200], "Content-Encoding: gzip")],
    "a whole in chunks": [chunked(200, JUNK)],
    "a larger whole": [answer(200, JUNK + JUNK)],
    "203": [answer(203, JUNK)],
    "204": [answer(204, b"")],
    "another ETag": [answer(206, JUNK[:100], RIGHT, etag='"e2"'), HEAD],
    "another object": [answer(200, JUNK[:200], etag='"e2"'), HEAD],
    "behind the end": [answer(416, b""), HEAD],
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_is_not_believed(lie: str) -> None:
    came = bytearray()
    async with talking(*LIES[lie]) as (store, script):
        with pytest.raises(StoreError) as raised:
            await store.get("k", came.extend, start=100, stop=200, if_match="e1", size=SIZE)
    assert script.answers == []
    if lie != "a long body in chunks":  # which shows only behind what it has to bring
        assert not came
    assert raised.value.code == "BadAnswer"
    assert errno_of(raised.value) == errno.EIO
    assert "proxies" in advice(raised.value)
    assert raised.value.message


@pytest.mark.parametrize("lie", [name for name in LIES if name != "a long body in chunks"])
async def test_after_a_lie_the_truth_is(lie: str) -> None:
    came = bytearray()
    async with talking(*LIES[lie], TRUTH, retries=1) as (store, script):
        info = await store.get("k", came.extend, start=100, stop=200, if_match="e1", size=SIZE)
    assert came == OBJECT[100:200]
    assert (info.etag, info.size) == ("e1", SIZE)
    assert len(script.seen) == len(LIES[lie]) + 1


@pytest.mark.parametrize("lie", ["another range", "no range", "encoded", "another ETag"])
async def test_who_always_lies_is_asked_as_often_as_retries_say(lie: str) -> None:
    async with talking(*LIES[lie] * 9, retries=2) as (store, script):
        with pytest.raises(NoAnswer):
            await store.get("k", pytest.fail, start=100, stop=200, if_match="e1", size=SIZE)
    assert len(script.seen) == 3 * len(LIES[lie])


async def test_a_version_that_is_not_there_any_more_is_no_lie() -> None:
    """The endpoint ignores If-Match, which a HEAD confirms."""
    new = [
        answer(206, JUNK[:100], label(100, 200, 400), etag='"e2"'),
        answer(200, b"", etag='"e2"', length="400"),
    ]
    async with talking(*new, *new, retries=3) as (store, script):
        for start in (100, 250):
            with pytest.raises(PreconditionFailed):
                await store.get("k", pytest.fail, start=start, stop=200, if_match="e1", size=SIZE)
            if start == 100:
                script.answers = [answer(200, JUNK[:50], etag='"e2"'), new[1]]
    assert len(script.seen) == 4


async def test_a_server_that_ignores_range(caplog: pytest.LogCaptureFixture) -> None:
    whole = answer(200, OBJECT)
    async with talking(whole, whole, whole) as (store, _):
        for start in (0, 100, 200):
            came = bytearray()
            with caplog.at_level(logging.WARNING):
                await store.get("k", came.extend, start=start, stop=start + 50, size=SIZE)
            assert came == OBJECT[start : start + 50]
    assert caplog.text.count("ignores Range") == 1


@pytest.mark.parametrize("status", [200, 206])
async def test_a_label_tells_a_part_whatever_the_status_is(status: int) -> None:
    """``rclone serve s3`` answers 200."""
    body = bytearray()
    async with talking(answer(status, OBJECT[100:200], RIGHT), retries=0) as (store, _):
        await store.get("k", body.extend, start=100, stop=200, if_match="e1", size=SIZE)
    assert body == OBJECT[100:200]


async def test_of_a_whole_object_no_more_is_read_than_was_asked_for() -> None:
    """The rest may be gigabytes: the connection is given up instead."""
    begun = answer(200, OBJECT, length=str(1 << 40)) + CUT
    came = bytearray()
    async with talking(begun) as (store, _):
        await store.get("k", came.extend, start=100, stop=200, if_match="e1", size=1 << 40)
    assert came == OBJECT[100:200]


async def test_an_encoded_whole_of_unknown_size_is_compared_with_a_head() -> None:
    packed = answer(200, PACKED, "Content-Encoding: gzip")
    async with talking(packed, HEAD) as (store, _):
        with pytest.raises(NoAnswer):
            await store.get("k", pytest.fail)
    same = answer(200, b"", length=str(len(PACKED)))
    came = bytearray()
    async with talking(packed, same) as (store, _):
        await store.get("k", came.extend)
    assert came == PACKED


@pytest.mark.parametrize("grown", [SIZE, SIZE + 1])
async def test_the_rest_of_a_broken_body_is_of_the_same_size(grown: int) -> None:
    first = answer(206, OBJECT[100:150], RIGHT, "Connection: close", length="100")
    rest = answer(206, OBJECT[150:200], label(150, 200, grown))
    came = bytearray()
    async with talking(first, rest, retries=1) as (store, script):
        if grown == SIZE:
            await store.get("k", came.extend, start=100, stop=200)
            assert came == OBJECT[100:200]
        else:
            with pytest.raises(NoAnswer):
                await store.get("k", came.extend, start=100, stop=200)
            assert came == OBJECT[100:150]
    assert script.seen[1].headers["if-match"] == '"e1"'


@pytest.mark.parametrize("length", ["", "Content-Length: "])
async def test_a_head_without_a_length_is_none(length: str) -> None:
    bare = f'HTTP/1.1 200 OK\r\nETag: "e1"\r\n{length}\r\n\r\n'.encode()
    bare = bare.replace(b"\r\n\r\n\r\n", b"\r\n\r\n")
    async with talking(bare) as (store, _):
        with pytest.raises(NoAnswer) as raised:
            await store.head("k")
    assert raised.value.code == "BadAnswer"


@pytest.mark.parametrize("refuses", [True, False])
async def test_an_answer_that_names_no_version(refuses: bool) -> None:
    """It is the wanted one if that was a condition; an endpoint may refuse to compare."""

    async def speak(seen: Seen) -> bytes:
        if refuses and "if-match" in seen.headers:
            return error(501, "NotImplemented")
        body = b"" if seen.line.startswith("HEAD") else OBJECT
        return answer(200, body, length=str(SIZE)).replace(b'ETag: "e1"\r\n', b"")

    data = bytearray()
    async with talking(speak=speak) as (store, _):
        if refuses:
            with pytest.raises(PreconditionFailed):
                await store.get("k", data.extend, if_match="e1", size=SIZE)
        else:
            assert (await store.get("k", data.extend, if_match="e1", size=SIZE)).size == SIZE
    assert data == (b"" if refuses else OBJECT)
