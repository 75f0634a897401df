"""What the labels of a GET's answer are worth: the right bytes, or none."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bucketfs.errors import NoAnswer
from bucketfs.store.aws.ranges import Asked, Surplus, Told, Window, believed, length_of

OBJECT = bytes(range(40))
SIZE = len(OBJECT)
NUMBER = st.integers(0, SIZE + 2)
TEXT = st.text("bytes 0123456789-/*,=", max_size=14)


@st.composite
def questions(draw: st.DrawFn) -> Asked:
    start = draw(st.integers(0, SIZE - 1))
    stop = draw(st.none() | st.integers(start + 1, SIZE + 2))
    return Asked("k", start, stop, size=draw(st.sampled_from([None, SIZE])))


def take(asked: Asked, told: Told, body: bytes, piece: int) -> bytes:
    """What a sink gets of a body that comes in pieces."""
    taken = bytearray()
    window = Window(taken.extend, asked.start - told.at, told.count)
    try:
        for at in range(0, len(body), piece):
            window(body[at : at + piece])
    except Surplus:
        assert window.left == 0
    return bytes(taken)


def wanted(asked: Asked) -> bytes:
    return OBJECT[asked.start : asked.stop]


@given(questions(), st.booleans(), st.integers(1, SIZE))
def test_an_honest_answer_is_used(asked: Asked, framed: bool, piece: int) -> None:
    body = wanted(asked)
    label = f"bytes {asked.start}-{asked.start + len(body) - 1}/{SIZE}"
    came = {"content-range": label} | ({} if framed else {"content-length": str(len(body))})
    told = believed(asked, 206, came)
    assert (told.size, told.cut) == (SIZE, False)
    assert take(asked, told, body, piece) == body


@given(questions(), st.integers(1, SIZE))
def test_of_a_whole_object_the_range_is_cut_out(asked: Asked, piece: int) -> None:
    told = believed(asked, 200, {"content-length": str(SIZE)})
    assert take(asked, told, OBJECT, piece) == wanted(asked)
    assert told.cut == (wanted(asked) != OBJECT)


@given(questions(), NUMBER, NUMBER, st.sampled_from([SIZE, SIZE - 1, "*"]), st.booleans())
def test_another_range_than_the_one_asked_for_is_never_used(
    asked: Asked, first: int, last: int, size: int | str, framed: bool
) -> None:
    """The server sends what its label says, whatever it was asked for."""
    body = OBJECT[first : last + 1]
    assume(len(body) == last + 1 - first)
    came = {"content-range": f"bytes {first}-{last}/{size}"}
    if not framed:
        came["content-length"] = str(len(body))
    try:
        told = believed(asked, 206, came)
    except NoAnswer:
        return
    assert wanted(asked).startswith(take(asked, told, body, SIZE))


@given(
    questions(),
    st.integers(200, 299),
    st.dictionaries(
        st.sampled_from(["content-range", "content-length", "content-type", "content-encoding"]),
        TEXT
        | st.sampled_from(["gzip", "multipart/byteranges; boundary=x", "5", f"bytes 3-7/{SIZE}"]),
    ),
)
def test_any_labels_are_believed_or_not(asked: Asked, status: int, came: dict[str, str]) -> None:
    try:
        told = believed(asked, status, came)
    except NoAnswer:
        return
    assert status in (200, 206)
    assert told.count >= 0
    assert asked.start >= told.at >= 0
    assert asked.start + told.count <= max(told.size, asked.start)


def test_the_label_that_ceph_gives_to_large_swift_objects_is_let_through() -> None:
    asked = Asked("k", 100, 200, size=1000)
    told = believed(asked, 206, {"content-range": "bytes 0-199/1000", "content-length": "100"})
    assert told == Told(100, 100, 1000, cut=False, encoded=False)


@pytest.mark.parametrize(
    "came",
    [
        {"content-range": "bytes 0-199/1000", "content-length": "200"},  # it means what it says
        {"content-range": "bytes 0-199/1000"},
        {"content-range": "bytes 0-99/1000", "content-length": "100"},
        {"content-range": "bytes 50-199/1000", "content-length": "100"},
    ],
)
def test_only_that_one_is(came: dict[str, str]) -> None:
    with pytest.raises(NoAnswer):
        believed(Asked("k", 100, 200, size=1000), 206, came)


@pytest.mark.parametrize(
    "text", ["", "-1", "+5", "5_0", "\u0665", "1.5", "5, 5", str(1 << 63), "9" * 40]
)
def test_a_length_that_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        length_of({"content-length": text})
