"""Any bytes from a server: readers of listings, errors and headers answer, or say what is wrong.

`make fuzz` runs these for longer, led by what they reach.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any
from xml.sax.saxutils import escape

from botocore.exceptions import ClientError
from botocore.serialize import create_serializer
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bucketfs.errors import advice, errno_of
from bucketfs.store.aws.answers import header_params, object_info, time_told, translate, unix_time
from bucketfs.store.aws.error_body import parse_error
from bucketfs.store.aws.list_answers import parse_listing, parse_uploads, token_ahead
from bucketfs.store.aws.server_time import ServerTime
from bucketfs.store.http.http1 import Answer, HeaderMap, Malformed
from bucketfs.tree.core.posix import Defaults, decode
from tests.harness.examples import examples
from tests.store.test_listing import MODEL
from tests.store.test_transport import OK

WRITER = create_serializer("rest-xml", include_validation=False)
thoroughly = settings(max_examples=examples(300))

ELEMENTS = st.sampled_from(
    [
        *("Error", "Code", "Message", "Region", "ListBucketResult", "EncodingType"),
        *("Contents", "Key", "Size", "ETag", "LastModified", "StorageClass", "Owner"),
        *("CommonPrefixes", "Prefix", "IsTruncated", "NextContinuationToken", "NextMarker"),
        *("Upload", "UploadId", "Initiated", "NextKeyMarker", "NextUploadIdMarker"),
    ]
)
XMLISH = st.recursive(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(escape)
    | st.sampled_from(["SlowDown", "5", "-5", str(2**63), "2026-11-21T09:12:20Z", "url", "true"]),
    lambda inner: st.builds(
        lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag}>",
        ELEMENTS,
        st.lists(inner, max_size=4),
    ),
    max_leaves=25,
)
ROOTS = st.sampled_from(["Error", "ListBucketResult", "ListMultipartUploadsResult", "html"])
BODIES = st.binary(max_size=200) | st.builds(
    lambda root, parts, cut: f"<{root}>{''.join(parts)}</{root}>".encode()[cut:],
    ROOTS,
    st.lists(XMLISH, max_size=6),
    st.sampled_from([0, 0, 0, 1]),
)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["5", "-5", str(2**64), "9" * 5000, "Sat, 21 Nov 2026 07:39:22 GMT", "bytes 0-4/5", "%22%7B%7D"]
)
NAMES = st.sampled_from(
    [
        *("content-length", "content-range", "content-type", "last-modified", "date", "etag"),
        *("retry-after", "x-amz-request-id", "x-amz-storage-class", "server", "expires"),
        *(f"x-amz-meta-{name}" for name in ("mode", "uid", "gid", "xattr", "rdev")),
        *(f"x-amz-meta-{name}" for name in ("mtime", "atime", "ctime")),
        *("x-amz-meta-permissions", "x-amz-meta-goog-reserved-posix-mode", "x-amz-meta-owner"),
    ]
)
HEADERS = st.dictionaries(NAMES, VALUES, max_size=6).map(HeaderMap)


@thoroughly
@given(body=BODIES)
def test_any_listing(body: bytes) -> None:
    token_ahead(body)
    page = parse_listing(body)
    if page is not None:
        shown = page.answer("a/", "/", None)
        assert len(page.objects) + len(page.prefixes) + page.left_out == (
            len(shown.objects) + len(shown.prefixes) + shown.left_out
        )
        for info in page.objects:
            assert 0 <= info.size < 2**63
            assert abs(info.last_modified) < 2**40
            assert info.key.encode()
        for info in shown.objects:
            assert "/" not in info.key.removeprefix("a/")
        (page.next_token + page.next_marker).encode()
    uploads = parse_uploads(body)
    if uploads is not None:
        assert all(one.key.encode() and one.upload_id for one in uploads.uploads)


@thoroughly
@given(status=st.integers(300, 999), headers=HEADERS, body=BODIES)
def test_any_error(status: int, headers: HeaderMap, body: bytes) -> None:
    said: Any = parse_error(status, headers, body)
    failure = translate(ClientError(said, "GetObject"), "GetObject", "k")
    assert failure.code
    assert failure.code.isprintable()
    assert len(str(failure)) < 2000
    assert str(failure).isprintable()
    assert errno_of(failure)
    advice(failure)
    if failure.retry_after is not None:
        assert failure.retry_after >= 0


@thoroughly
@given(headers=HEADERS, directory=st.booleans())
@example(HeaderMap({"x-amz-meta-uid": "0" * 5000 + "7"}), False)
@example(HeaderMap({"expires": "never"}), False)
@example(HeaderMap({"expires": "0001-01-01T00:00:00+23:59"}), False)
@example(HeaderMap({"last-modified": "Sat, 99999999999999999999 Nov 2026 07:39:22 GMT"}), False)
def test_any_headers_of_an_object(headers: HeaderMap, directory: bool) -> None:
    info = object_info("k", headers, 5)
    assert abs(info.last_modified) < 2**40
    assert info.headers
    WRITER.serialize_to_request(
        {"Bucket": "b", "Key": "k", **header_params(info.headers)},
        MODEL.operation_model("PutObject"),
    )
    posix = decode(
        info.headers,
        size=5,
        modified=info.last_modified,
        directory=directory,
        defaults=Defaults(1, 1),
    )
    assert 0 <= posix.mode < 1 << 16
    for number in (posix.uid, posix.gid, posix.rdev):
        assert 0 <= number < 1 << 32
    for ns in (posix.mtime_ns, posix.atime_ns, posix.ctime_ns):
        assert abs(ns // 10**9) < 2**40


@thoroughly
@given(headers=HEADERS)
@example(HeaderMap({"date": "Fri, 31 Dec 9999 23:59:59 GMT"}))
@example(HeaderMap({"date": "Thu, 01 Jan 1970 00:00:00 GMT"}))
def test_any_date_of_a_server(headers: HeaderMap) -> None:
    time = ServerTime()
    for _ in range(3):
        time.learn("403", headers, time.offset)
    assert 2000 < datetime.fromtimestamp(time.now(), UTC).year < 2200


@thoroughly
@given(moment=st.datetimes(timezones=st.just(UTC)), shift=st.integers(-12, 12))
def test_dates(moment: datetime, shift: int) -> None:
    moment = moment.replace(microsecond=0)
    assume(1 < moment.year < 9999)
    there = moment + timedelta(hours=shift)
    seconds = int(moment.timestamp())
    assert unix_time(format_datetime(moment, usegmt=True)) == seconds
    assert unix_time(moment.isoformat()) == seconds
    assert unix_time(f"{there.isoformat()[:19]}{shift:+03d}:00") == seconds


@thoroughly
@given(text=st.text() | VALUES)
def test_no_dates(text: str) -> None:
    try:
        seconds = unix_time(text)
    except ValueError:
        seconds = 0
    assert time_told(text) == seconds


def test_a_leap_second() -> None:
    assert unix_time("Sat, 31 Dec 2016 23:59:60 GMT") == unix_time("Sat, 31 Dec 2016 23:59:59 GMT")


TOKENS = st.lists(
    st.binary(max_size=12)
    | st.sampled_from(
        [
            OK,
            *(b"HTTP/1.1 %d X\r\n" % code for code in (100, 101, 204, 206, 304, 404, 999)),
            *(b"Content-Length: ", b"Transfer-Encoding: ", b"chunked", b"gzip", b": "),
            *(b"5", b"0", b"-1", b"18446744073709551615", b"hello", b";x=", b"Connection: close"),
            *(b"\r\n", b"\r\n\r\n"),
        ]
    ),
    max_size=20,
).map(b"".join)


@thoroughly
@given(
    message=TOKENS | TOKENS.map(lambda rest: OK + rest),
    step=st.integers(1, 40),
    method=st.sampled_from(["GET", "HEAD", "CONNECT"]),
)
def test_any_bytes_from_a_connection(message: bytes, step: int, method: str) -> None:
    one = Answer(method)
    try:
        for at in range(0, len(message), step):
            one.feed(memoryview(message)[at : at + step])
            one.taken()
    except Malformed:
        return
    assert one.status == 0 or 200 <= one.status <= HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED + 488
    assert one.length is None or one.length >= 0
