"""Lines of a feed: what is read out of them, and that nothing else comes of any bytes."""

from __future__ import annotations

import json
from contextlib import suppress
from urllib.parse import parse_qsl, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.store.base import Change
from bucketfs.store.feed import EVENTS, LINE_LIMIT, Lines, NoFeed, parse, query
from bucketfs.store.layers.own import MEMORY, OwnChanges

KEYS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def line(key: str, name: str = "s3:ObjectCreated:Put", **told: object) -> bytes:
    """As minio-go's own documentation shows an event."""
    event = {
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "eventName": name,
        "s3": {"bucket": {"name": "b"}, "object": {"key": key, "sequencer": "17", **told}},
    }
    return json.dumps({"Records": [event]}).encode()


def test_what_is_read() -> None:
    assert parse(line("a/b", eTag="x", size=1), "") == [Change(("a/b",), etag="x")]
    removed = line("a/b", "s3:ObjectRemoved:DeleteMarkerCreated")
    assert parse(removed, "a/") == [Change(("a/b",), removed=True)]
    assert parse(line("a+b", eTag='"x"'), "") == [Change(("a+b", "a b"), etag="x")]
    assert parse(line("a%2Fb+c"), "a/") == [Change(("a/b c",))]


@pytest.mark.parametrize(
    "ping", [b"", b" ", b"   \r", b'{"Records":null}', b'{"Records":[]}', b'{"Records":[{}, 1]}']
)
def test_pings_and_what_is_nothing(ping: bytes) -> None:
    assert parse(ping, "") == []


@pytest.mark.parametrize(
    "name", ["s3:ObjectAccessed:Get", "s3:BucketRemoved:*", "ObjectCreatedAll", "", "s3:"]
)
def test_other_events_are_none_of_ours(name: str) -> None:
    assert parse(line("k", name), "") == []


@given(key=KEYS, prefix=KEYS)
def test_a_key_is_among_its_readings(key: str, prefix: str) -> None:
    for written in (prefix + key, quote_plus(prefix + key), quote_plus(prefix + key, safe="/")):
        (change,) = parse(line(written), prefix)
        assert prefix + key in change.keys


@given(key=KEYS, prefix=KEYS)
def test_no_key_outside_of_the_prefix(key: str, prefix: str) -> None:
    for change in parse(line(key), prefix):
        assert all(key.startswith(prefix) for key in change.keys)


@given(JSON | st.dictionaries(st.sampled_from(["Records", "Err"]), st.lists(JSON)))
def test_any_json_is_read_or_refused(value: object) -> None:
    with suppress(NoFeed):
        assert all(change.keys for change in parse(json.dumps(value).encode(), ""))


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(NoFeed):
        parse(data, "")


def test_deep_json_is_refused() -> None:
    with pytest.raises(NoFeed):
        parse(b'{"Records":' + b"[" * 200_000, "")


@given(st.lists(st.tuples(KEYS, st.booleans())), st.data())
def test_lines_come_out_as_they_went_in(keys: list[tuple[str, bool]], data: st.DataObject) -> None:
    sent = [line(key) if event else b" " for key, event in keys]
    stream = b"".join(part + b"\n" if part != b" " else part for part in sent)
    lines, found = Lines(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        found += lines.add(memoryview(stream)[:cut])
        stream = stream[cut:]
    told = [change for part in found for change in parse(part, "")]
    assert told == [change for part in sent for change in parse(part, "")]


@pytest.mark.parametrize("start", [b"<?xml version", b"\n<", b"  [", b"x", b"\xef\xbb\xbf{"])
def test_what_begins_otherwise_is_no_feed(start: bytes) -> None:
    with pytest.raises(NoFeed):
        Lines().add(start)


def test_a_line_has_an_end() -> None:
    lines = Lines()
    for _ in range(4):
        lines.add(b"{" * (LINE_LIMIT // 4))
    with pytest.raises(NoFeed):
        lines.add(b"{")


@pytest.mark.parametrize(
    ("prefix", "filtered"),
    [
        ("", ""),
        ("a/b-c_d.e/", "a/b-c_d.e/"),
        ("a b/", ""),
        ("a*/", ""),
        ("a/../b/", ""),
        ("ü/", ""),
    ],
)
def test_the_question(prefix: str, filtered: str) -> None:
    pairs = parse_qsl(query(prefix), keep_blank_values=True)
    assert pairs == sorted(pairs)  # as signatures want them
    assert [value for name, value in pairs if name == "events"] == list(EVENTS)
    assert dict(pairs)["prefix"] == filtered
    assert " " not in query(prefix)
    assert "+" not in query(prefix)


# ---- whose changes they are ------------------------------------------------------------------


def listening() -> tuple[OwnChanges, list[Change]]:
    passed: list[Change] = []
    own = OwnChanges()
    own.pass_on = passed.extend
    return own, passed


MADE, GONE = Change(("k",), etag="1"), Change(("k",), removed=True)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(("change", "etag"), [(MADE, "1"), (MADE, ""), (GONE, None)])
def test_an_own_change_is_left_out_once(change: Change, etag: str | None, early: bool) -> None:
    own, passed = listening()
    own.begin(["k"])
    if early:
        own.heard([change], 0)
    own.end({"k": etag}, ["k"], 1)
    if not early:
        own.heard([change], 2)
    assert passed == []
    own.heard([change], 3)
    assert passed == [change], "the second is others'"


@pytest.mark.parametrize("early", [False, True])
def test_others_changes_to_a_key_of_ours_are_passed_on(early: bool) -> None:
    own, passed = listening()
    theirs = Change(("k", "other reading"), etag="2")
    own.begin(["k"])
    if early:
        own.heard([theirs], 0)
        assert passed == [], "it may be ours"
    own.end({"k": "1"}, ["k"], 1)
    if not early:
        own.heard([theirs], 2)
    assert passed == [theirs]


def test_a_failed_request_explains_nothing() -> None:
    own, passed = listening()
    own.begin(["k"])
    own.heard([MADE], 0)
    own.end({}, ["k"], 1)
    assert passed == [MADE]


def test_what_never_came_does_not_hide_others_changes() -> None:
    own, passed = listening()
    own.end({"k": None}, [], 0)  # nothing was there to be deleted
    own.heard([GONE], MEMORY + 1)
    assert passed == [GONE]
    own.end({"k": None}, [], 100)
    own.end({"k": "1"}, [], 101)
    own.heard([MADE], 102)
    own.heard([GONE], 103)
    assert passed == [GONE, GONE]


def test_nothing_is_kept_of_an_ended_feed() -> None:
    own, passed = listening()
    own.begin(["k"])
    own.heard([MADE], 0)
    own.forget()
    own.end({"k": "1"}, ["k"], 1)
    own.pass_on = passed.extend
    own.heard([MADE], 2)
    assert passed == [MADE]


def test_what_a_server_never_tells_is_bounded() -> None:
    """A program writes one file again and again, others once, and no event comes."""
    own, _ = listening()
    for number in range(1000):
        own.end({"k": str(number)}, ["k"], number / 100)
    assert len(own._expected["k"]) <= 100
    own.end({"k": "late"}, ["k"], 11 + MEMORY)
    assert [etag for etag, _ in own._expected["k"]] == ["late"]
    for number in range(21_000):
        own.end({f"other {number}": "1"}, [], 11 + MEMORY)
    assert len(own._expected) == 20_000
    assert "k" not in own._expected
