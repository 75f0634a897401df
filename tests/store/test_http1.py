"""Heads and bodies of HTTP/1.1, whole and in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.store.http.http1 import Answer, Malformed, request_head

OK = b"HTTP/1.1 200 OK\r\n"


def read(message: bytes, *, method: str = "GET", step: int = 1 << 20) -> tuple[Answer, bytes]:
    answer = Answer(method)
    body = b""
    for at in range(0, len(message), step):
        answer.feed(memoryview(message)[at : at + step])
        body += answer.taken()
    return answer, body


def test_a_request() -> None:
    headers = [("Range", "bytes=0-4"), ("x-amz-meta-name", "ü"), ("user-agent", b"bytes")]
    assert request_head("GET", "/b/k?x=1", "host:80", headers).decode().split("\r\n") == [
        "GET /b/k?x=1 HTTP/1.1",
        "Host: host:80",
        "Accept-Encoding: identity",
        "Range: bytes=0-4",
        "x-amz-meta-name: ü",
        "user-agent: bytes",
        "",
        "",
    ]


@pytest.mark.parametrize("bad", ["a\r\nEvil: 1", "a\n", "a\r", "\0", "a\r\n"])
def test_no_value_ends_its_line(bad: str) -> None:
    for method, target, host, name, value in [
        ("GET", "/" + bad, "h", "n", "v"),
        ("GET" + bad, "/", "h", "n", "v"),
        ("GET", "/", "h" + bad, "n", "v"),
        ("GET", "/", "h", "n" + bad, "v"),
        ("GET", "/", "h", "n", bad),
    ]:
        with pytest.raises(Malformed):
            request_head(method, target, host, [(name, value)])


@given(value=st.text(st.characters(exclude_categories=["Cs"])), step=st.integers(1, 50))
def test_what_is_written_can_be_read(value: str, step: int) -> None:
    """A value comes through as it is, or is refused: it never becomes something else."""
    try:
        head = request_head("GET", "/", "h", [("x-amz-meta-v", value)])
    except Malformed:
        assert set(value) & set("\r\n\0")
        return
    message = head.replace(b"GET / HTTP/1.1", b"HTTP/1.1 204 No", 1)
    try:
        answer, _ = read(message, step=step)
    except Malformed:
        assert any(ord(c) < 32 or ord(c) == 127 for c in value)
        return
    assert list(answer.headers) == ["host", "accept-encoding", "x-amz-meta-v"]
    assert answer.headers["x-amz-meta-v"] == value.strip(" \t")


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("message", "length", "body", "keeps_alive"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", 5, b"hello", True),
        (OK + b"Content-Length: 0\r\n\r\n", 0, b"", True),
        (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", 2, b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 2, b"hi", False),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: 1\r\n\r\n",
         None, b"hello", True),
        (OK + b"\r\nuntil the end", None, b"until the end", False),
        (b"HTTP/1.1 204 None\r\n\r\n", 0, b"", True),
        (b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", 0, b"", True),
        (b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 Hint\r\nLink: x\r\n\r\n"
         + OK + b"Content-Length: 2\r\n\r\nhi", 2, b"hi", True),
    ],
)  # fmt: skip
def test_answers(
    message: bytes, length: int | None, body: bytes, keeps_alive: bool, step: int
) -> None:
    answer, came = read(message, step=step)
    assert (answer.length, came, answer.keeps_alive) == (length, body, keeps_alive)
    assert "link" not in answer.headers
    assert "t" not in answer.headers
    assert answer.complete or answer.ends_with_connection or answer.status == 304


def test_an_answer_to_head_has_no_body() -> None:
    answer, _ = read(OK + b"Content-Length: 500\r\n\r\n", method="HEAD")
    assert (answer.length, answer.keeps_alive) == (0, True)
    assert answer.headers["content-length"] == "500"
    answer, _ = read(OK + b"Content-Length: 5\r\n\r\nhello", method="HEAD")
    assert not answer.keeps_alive


def test_what_comes_out_of_turn_ends_the_connection() -> None:
    answer, body = read(OK + b"Content-Length: 2\r\n\r\nhi" + OK + b"Content-Length: 0\r\n\r\n")
    assert (answer.status, body, answer.keeps_alive) == (200, b"hi", False)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_second_answer_adds_nothing_to_the_first(chunked: bool) -> None:
    """Whoever counts the bytes of the first waited for a negative number of others."""
    whole = OK + b"Content-Length: 2\r\n\r\nhi"
    if chunked:
        whole = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    answer, body = read(whole + whole)
    assert (body, answer.keeps_alive) == (b"hi", False)


@pytest.mark.parametrize(
    "message",
    [
        b"garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK + b"Content-Length: -5\r\n\r\n",
        OK + b"Content-Length: 9223372036854775808\r\n\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: ws\r\nConnection: upgrade\r\n\r\n",
        OK + b"X: " + b"y" * 200_000,
        (OK + b"Y: z\r\n" * 50_000),
    ],
)
def test_no_http(message: bytes) -> None:
    with pytest.raises(Malformed):
        read(message, step=4096)


def test_metadata_that_is_no_utf8() -> None:
    answer, _ = read(OK + b"X-Amz-Meta-N: \xfc\r\nContent-Length: 0\r\n\r\n")
    assert answer.headers["x-amz-meta-n"] == "ü"
    assert "X-AMZ-meta-N" in answer.headers
    assert answer.headers.get("X-AMZ-meta-N") == "ü"
