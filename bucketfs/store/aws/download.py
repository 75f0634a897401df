"""What `S3Store.get` does with the answer: is it that version, and did all of its body come.

`bucketfs.store.aws.ranges` says what an answer's labels are worth; here is what takes a HEAD, or
the body itself, to tell.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bucketfs.errors import BrokenBody, PreconditionFailed, StoreError
from bucketfs.store.aws.answers import translate
from bucketfs.store.aws.error_body import words
from bucketfs.store.aws.ranges import Asked, Surplus, Told, Window
from bucketfs.store.base import ObjectInfo, Sink
from bucketfs.store.http.transport import Incomplete, RawResponse

Head = Callable[[str], Awaitable[ObjectInfo]]


async def verify(asked: Asked, told: Told, info: ObjectInfo, head: Head) -> None:
    """Compare version and size of an answer with those that are wanted.

    An endpoint that ignores If-Match, or is not sent it, answers another version without a word; so
    does one that mixes answers up. A HEAD tells which of the two it was, and whether an encoded
    body is what the object has.

    Raises:
        PreconditionFailed: The object is another version now.
        NoAnswer: The answer is not this object's.
        StoreError: It ends before what was asked for, as S3 says with 416; or as `head` does.
    """
    size = asked.size
    other = asked.etag not in ("", info.etag)
    if other or (told.encoded and size is None):
        found = await head(asked.key)
        if asked.etag not in ("", found.etag):
            raise _changed(asked)
        if info.etag != found.etag:
            raise asked.wrong(f"the ETag is {words(info.etag)!r}, not {words(found.etag)!r}")
        size = found.size
    if size not in (None, info.size):
        raise asked.wrong(f"the object has {size} bytes, and {info.size} in the answer")
    if asked.start and not told.count:
        raise StoreError("InvalidRange", status=416, operation="GetObject", key=asked.key)


async def refused(asked: Asked, refusal: StoreError, head: Head) -> ObjectInfo:
    """The answer to a GET of a range that S3 refuses, as it does with any of an empty object.

    Raises:
        PreconditionFailed: The object is another version than the one asked for.
        NoAnswer: It has these bytes.
        StoreError: The refusal, of a range that begins behind the end.
    """
    if asked.start and asked.size is None:
        raise refusal
    info = await head(asked.key)
    if asked.etag != info.etag and (asked.etag or info.size):
        raise _changed(asked)
    if info.size > asked.start:
        raise asked.wrong(f"refused as a range behind the end, which is at {info.size}")
    if asked.start:
        raise refusal
    return info


async def feed(body: RawResponse, sink: Sink, asked: Asked, told: Told, info: ObjectInfo) -> None:
    """Pass on what was asked for of a body, and leave the rest. Raises BrokenBody."""
    window = Window(sink, asked.start - told.at, told.count)
    code = message = ""
    try:
        await body.feed(window)
    except Incomplete as exc:
        code = translate(exc, "GetObject", asked.key).code
    except Surplus:
        if not told.cut:
            code, message = "BadAnswer", "the body is longer than its label"
    else:
        code = "IncompleteBody" if window.left else ""
    if code:
        raise BrokenBody(
            code,
            operation="GetObject",
            key=asked.key,
            message=message,
            etag=info.etag,
            size=info.size,
        )


def _changed(asked: Asked) -> PreconditionFailed:
    return PreconditionFailed(
        "PreconditionFailed", status=412, operation="GetObject", key=asked.key
    )
