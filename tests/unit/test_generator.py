"""The benchmarks' server of made-up objects, as a client of its own sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from benchmarks.data import MIB, SMALL, noise
from benchmarks.generator import Directory, Request, key_of
from benchmarks.growth import generator
from tests.harness.witness import Witness


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Witness]:
    """A bucket of the generator."""
    names = ["names-2500", "names-1000", f"bytes-{20 * MIB + 7}"]
    with generator(tmp_path_factory.mktemp("generator"), names) as (endpoint, _):
        yield Witness(endpoint, "any", endpoint.client())


def test_a_directory_is_listed_page_by_page(made):
    assert made.keys("names-2500/") == [key_of("names-2500", number) for number in range(2500)]
    assert made.keys("names-1000/")[-1] == "names-1000/0000999"


@pytest.mark.parametrize("start", [0, 1, 999, 1000, 1499, 2499])
@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_a_page_may_begin_anywhere(made, start, limit):
    where = {"StartAfter": key_of("names-2500", start - 1)} if start else {}
    page = made.client.list_objects_v2(
        Bucket="any", Prefix="names-2500/", Delimiter="/", MaxKeys=limit, **where
    )
    keys = [item["Key"] for item in page["Contents"]]
    stop = min(start + limit, 2500)
    assert keys == [key_of("names-2500", number) for number in range(start, stop)]
    assert page["IsTruncated"] == (stop < 2500)
    assert {item["Size"] for item in page["Contents"]} == {SMALL}


def test_the_root_shows_directories_and_files(made):
    page = made.client.list_objects_v2(Bucket="any", Delimiter="/")
    assert [item["Prefix"] for item in page["CommonPrefixes"]] == ["names-1000/", "names-2500/"]
    assert [item["Key"] for item in page["Contents"]] == [f"bytes-{20 * MIB + 7}"]


def test_a_listed_name_has_bytes_and_others_have_none(made):
    assert len(made.get("names-1000/0000999")) == SMALL
    for key in ("names-1000/0001000", "names-1000/x", "names-7/0000001", "bytes-1"):
        assert not made.exists(key)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 20 * MIB + 7), (5, 6), (MIB - 1, 9 * MIB + 3), (20 * MIB, 20 * MIB + 7)]
)
def test_any_range_can_be_read(made, start, stop):
    key, span = f"bytes-{20 * MIB + 7}", f"bytes={start}-{stop - 1}"
    answer = made.client.get_object(Bucket="any", Key=key, Range=span)
    data = answer["Body"].read()
    assert len(data) == stop - start == answer["ContentLength"]
    # one MiB that repeats, whatever is asked for
    first = made.client.get_object(Bucket="any", Key=key, Range=f"bytes=0-{MIB - 1}")
    again = first["Body"].read() * 21
    assert data == again[start:stop]


def test_what_is_stored_has_a_size_and_an_etag(made):
    etag = made.put("new", b"x" * 300_000)
    head = made.head("new")
    assert head is not None
    assert (head["ContentLength"], head["ETag"].strip('"')) == (300_000, etag)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        made.client.put_object(Bucket="any", Key="new", Body=b"", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        made.client.put_object(Bucket="any", Key="new", Body=b"", IfMatch="other")
    made.delete("new")
    assert not made.exists("new")


def test_an_upload_in_parts_has_the_size_of_all(made):
    made.multipart("large", [noise(5 * MIB), noise(MIB)])
    assert made.head("large")["ContentLength"] == 6 * MIB
    made.delete("large")


def test_a_million_pages_are_not_kept():
    directory = Directory("names-1000000", 1_000_000)
    last = directory.page("any", 999_000, 1000)
    assert b"<Key>names-1000000/0999999</Key>" in last
    assert b"<IsTruncated>false</IsTruncated>" in last


@pytest.mark.parametrize(
    ("asked", "span"),
    [("bytes=0-0", (0, 1)), ("bytes=3-", (3, 10)), ("bytes=3-99", (3, 10)), ("", (0, 10))],
)
def test_spans(asked, span):
    request = Request.parse(f"GET /any/key HTTP/1.1\r\nRange: {asked}")
    assert (request.bucket, request.key, request.span(10)) == ("any", "key", span)
