"""What a server says is read, or left out: no words of its own end in a traceback."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from bucketfs.errors import NoAnswer, PreconditionFailed, StoreError
from bucketfs.store import capability
from bucketfs.store.aws.list_answers import Listing, parse_listing, parse_versions
from bucketfs.store.base import BytesBody, Capabilities, Headers, ObjectInfo, Store, UploadInfo
from bucketfs.store.long_listing import read_pages
from tests.store.test_transport import HEAD, OK, Seen, error, talking

LIST = "<ListBucketResult><EncodingType>url</EncodingType>{}</ListBucketResult>"
GOOD = "<Contents><Key>{}</Key><Size>3</Size><ETag>&quot;e&quot;</ETag></Contents>"
DATE = "<LastModified>2026-11-21T09:12:20.352Z</LastModified>"

#: Entries that cannot be, by what is wrong with them.
BAD = {
    "size is a word": "<Contents><Key>x</Key><Size>many</Size></Contents>",
    "size is negative": "<Contents><Key>x</Key><Size>-1</Size></Contents>",
    "size has a fraction": "<Contents><Key>x</Key><Size>1.5</Size></Contents>",
    "size is 2**63": f"<Contents><Key>x</Key><Size>{2**63}</Size></Contents>",
    "size of 5000 digits": f"<Contents><Key>x</Key><Size>{'9' * 5000}</Size></Contents>",
    "size is empty": "<Contents><Key>x</Key><Size/></Contents>",
    "no size": "<Contents><Key>x</Key></Contents>",
    "no key": "<Contents><Size>1</Size></Contents>",
    "empty key": "<Contents><Key></Key><Size>1</Size></Contents>",
    "nothing": "<Contents/>",
    "date is a word": GOOD.replace("</Key>", "</Key><LastModified>yesterday</LastModified>"),
    "date of month 13": GOOD.replace("</Key>", f"</Key>{DATE.replace('-11-', '-13-')}"),
    "date without a day": GOOD.replace("</Key>", "</Key><LastModified>9</LastModified>"),
    "key is no UTF-8": GOOD.format("a%FF"),
    "etag of two lines": GOOD.replace("e&quot;", "e&#10;f&quot;").format("x"),
    "a prefix without a name": "<CommonPrefixes></CommonPrefixes>",
    "a prefix that is no UTF-8": "<CommonPrefixes><Prefix>%C3%2F</Prefix></CommonPrefixes>",
}  # fmt: skip
#: Entries that do not answer the question.
ASTRAY = {
    "key is elsewhere": GOOD.format("e/x"),
    "key goes on below": GOOD.format("d/a/b"),
    "prefix is elsewhere": "<CommonPrefixes><Prefix>e/</Prefix></CommonPrefixes>",
    "prefix is too long": "<CommonPrefixes><Prefix>d/a/b/</Prefix></CommonPrefixes>",
    "prefix has no end": "<CommonPrefixes><Prefix>d/a</Prefix></CommonPrefixes>",
    "prefix is the directory": "<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>",
}


def answer(body: str | bytes, *, status: int = 200) -> bytes:
    body = body if isinstance(body, bytes) else body.encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_entry_hides_no_other(bad: str) -> None:
    body = LIST.format(GOOD.format("a") + bad + GOOD.format("b"))
    page = parse_listing(body.encode())
    assert page == Listing(
        [ObjectInfo("a", 3, "e", 0), ObjectInfo("b", 3, "e", 0)], [], False, "", "", 1
    )


def test_a_marker_needs_no_size() -> None:
    """s3proxy tells nothing but its key and its time; of a file that would be no answer."""
    entry = "<Contents><Key>{}</Key><LastModified>2026-11-28T10:40:44Z</LastModified></Contents>"
    page = parse_listing(LIST.format(entry.format("d/") + entry.format("f")).encode())
    assert page is not None
    assert [(info.key, info.size, info.etag) for info in page.objects] == [("d/", 0, "")]
    assert page.left_out == 1


async def test_what_is_left_out_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    wrong = "".join(BAD.values()) + "".join(ASTRAY.values())
    good = [GOOD.format("d/f"), "<CommonPrefixes><Prefix>d/g/</Prefix></CommonPrefixes>"]
    pages = [
        answer(LIST.format(text))
        for text in [
            good[0] + wrong + "<IsTruncated>true</IsTruncated>"
            "<NextContinuationToken>t</NextContinuationToken>",
            wrong + good[1],
        ]
    ]
    shown: list[str] = []
    async with talking(*pages, *pages) as (store, _):
        for _ in range(2):
            with caplog.at_level(logging.WARNING):
                assert await read_pages(
                    store,
                    "d/",
                    lambda page: shown.extend([o.key for o in page.objects] + [*page.prefixes]),
                )
    assert shown == ["d/f", "d/g/"] * 2
    count = 2 * (len(BAD) + len(ASTRAY))
    assert [record.getMessage()[:40] for record in caplog.records] == [
        f"{count} entries of the listing of 'd/' are left"[:40]
    ]


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (b"a&#x1;b", "a\x01b"),
        (b"a\x01b", "a\x01b"),
        (b"a&#xFFFE;b", "a\ufffeb"),
        (b"a\xef\xbf\xbfb", "a\uffffb"),
        (b"a\xffb", None),
        (b"a&#xD800;b", None),
        (b"a&#1114112;b", None),
    ],
)
def test_names_that_xml_cannot_carry(written: bytes, key: str | None) -> None:
    """From a server that encodes nothing: they are read, or left out; the others are shown."""
    entries = [GOOD.format("\U0010f001é").encode(), GOOD.encode().replace(b"{}", written)]
    body = b"<?xml version='1.0'?>\n<ListBucketResult>\n%s</ListBucketResult>" % b"".join(entries)
    page = parse_listing(body.replace("\U0010f001".encode(), b"\n"))
    assert page
    assert [one.key for one in page.objects] == ["\né"] + [key] * (key is not None)
    assert page.left_out == (key is None)


@pytest.mark.parametrize(
    "body",
    [
        "<?xml version='1.0' encoding='nothing'?><ListBucketResult/>",
        "<?xml version='1.0' encoding='utf-7'?><ListBucketResult/>",
    ],
)
def test_a_page_in_an_encoding_nobody_knows(body: str) -> None:
    """All of S3 is UTF-8, whatever a gateway puts at the head of its pages."""
    assert parse_listing(body.encode()) == Listing([], [], False, "", "")


def test_a_token_that_cannot_be_sent_back() -> None:
    marker = b"<NextMarker>a\xff</NextMarker>"
    assert parse_listing(b"<ListBucketResult>%s</ListBucketResult>" % marker) is None


async def test_a_listing_that_does_not_go_on() -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    page = answer(LIST.format(GOOD.format("a") + more))
    async with talking(page, page, page, page) as (store, _):
        with pytest.raises(NoAnswer) as raised:
            await read_pages(store, "", lambda page: None)
    assert "the same again" in str(raised.value)


FIRST = answer(
    LIST.format(
        GOOD.format("a") + "<IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>z=</NextContinuationToken>"
    )
)
OLD = answer(LIST.format("<Marker/>" + GOOD.format("b")))


@pytest.mark.parametrize(
    "second", [error(501, "NotImplemented"), answer(LIST.format("<IsTruncated>true</IsTruncated>"))]
)
async def test_a_listing_that_breaks_off(second: bytes) -> None:
    """A token of version 2 is no key: version 1 would pass over all names before it."""
    async with talking(FIRST, second, OLD) as (store, script):
        with pytest.raises(StoreError):
            await read_pages(store, "", lambda page: None)
    assert all("list-type=2" in seen.line for seen in script.seen)


async def test_a_listing_goes_on_as_it_began() -> None:
    """What another listing has learned of the endpoint meanwhile counts for those that begin."""
    rest = answer(LIST.format(GOOD.format("b")))
    async with talking(FIRST, error(501, "NotImplemented"), OLD, rest) as (store, script):
        first = await store.list("")
        await store.list("")
        await store.list("", token=first.next_token)
    assert ["list-type=2" in seen.line for seen in script.seen] == [True, True, False, True]


UPLOADS = LIST.replace("ListBucketResult", "ListMultipartUploadsResult")
UPLOAD = "<Upload><Key>a%2Fb</Key><UploadId>1</UploadId><Initiated>{}</Initiated></Upload>"


async def test_uploads() -> None:
    good = UPLOAD.format("2026-11-21T09:12:20.000Z")
    bad = [
        UPLOAD.format("yesterday"),
        good.replace("<UploadId>1</UploadId>", ""),
        good.replace("<Key>a%2Fb</Key>", "<Key/>"),
        "<Upload/>",
    ]
    more = (
        "<MaxUploads>all</MaxUploads><IsTruncated>true</IsTruncated>"
        "<NextKeyMarker>a%20</NextKeyMarker><NextUploadIdMarker>7</NextUploadIdMarker>"
    )
    first = answer(UPLOADS.format(good + "".join(bad) + more))
    async with talking(first, answer(UPLOADS.format(good))) as (store, script):
        found = await store.list_uploads("")
    assert found == [UploadInfo("a/b", "1", 1795252340)] * 2
    assert "key-marker=a+&upload-id-marker=7" in script.seen[1].line.replace("%20", "+")
    async with talking(first, first, first) as (store, _):
        with pytest.raises(NoAnswer) as raised:
            await store.list_uploads("")
    assert "the same again" in str(raised.value)


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (lambda s: s.create_upload("k", Headers()), "<InitiateMultipartUploadResult/>"),
        (lambda s: s.create_upload("k", Headers()), "<html><body>log in</body></html>"),
        (lambda s: s.list_uploads(""), "<html/>"),
        (lambda s: s.list_uploads(""), ""),
        (lambda s: s.copy("k", "l", size=1),
         "<CopyObjectResult><ETag>a</ETag><ETag>b</ETag></CopyObjectResult>"),
        (lambda s: s.create_upload("k", Headers()),
         "<Result><UploadId>1</UploadId><UploadId>2</UploadId></Result>"),
        (lambda s: s.delete_many(["k"]),
         "<DeleteResult><Error><Code>X</Code></Error></DeleteResult>"),
        (lambda s: s.delete_many(["k"]),
         "<DeleteResult><Error><Key>other</Key></Error></DeleteResult>"),
        (lambda s: s.delete_many(["k"]),
         "<DeleteResult><Error><Key>k</Key><Key>k</Key></Error></DeleteResult>"),
    ],
)  # fmt: skip
async def test_answers_that_say_nothing(
    call: Callable[[Store], Awaitable[object]], body: str
) -> None:
    async with talking(answer(body), HEAD) as (store, _):
        with pytest.raises(NoAnswer) as raised:
            await call(store)
    assert raised.value.code == "BadAnswer"


async def test_what_stayed_of_many() -> None:
    body = (
        "<DeleteResult><Error><Key>a</Key><Code>Access\x1b[2JDenied</Code></Error>"
        "<Error><Key>b</Key></Error><Error><Key>c</Key><Code>AccessDenied</Code>"
        f"<Message>{'no ' * 1000}</Message></Error></DeleteResult>"
    ).replace("\x1b", "\\")
    async with talking(answer(body)) as (store, _):
        stayed = await store.delete_many(["a", "b", "c"])
    assert {key: exc.code for key, exc in stayed.items()} == {
        "a": "InternalError",
        "b": "InternalError",
        "c": "AccessDenied",
    }
    assert len(str(stayed["c"])) < 1000


async def test_versions_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """How conditions on copies and deletions are spelled, and what their refusals mean."""
    able = replace(capability.UNKNOWN, capabilities=Capabilities())
    monkeypatch.setattr(capability, "UNKNOWN", able)
    refused = (
        "<DeleteResult><Error><Key>a</Key><Code>PreconditionFailed</Code></Error>"
        "<Error><Key>b</Key><Code>NoSuchKey</Code></Error></DeleteResult>"
    )
    copied = answer("<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
    async with talking(answer(refused), HEAD, copied, copied) as (store, script):
        stayed = await store.delete_many(["a", "b", "c"], if_match={"a": "e0", "b": "e2"})
        await store.copy("k", "l", size=5, target_if_match="e0")
        await store.copy("k", "l", size=5, target_if_none_match=True)
    assert {key: type(exc) for key, exc in stayed.items()} == {"a": PreconditionFailed}
    deletion, look, over, free = script.seen
    for key, etag in (("a", '"e0"'), ("b", '"e2"')):
        assert f"<Key>{key}</Key><ETag>{etag}</ETag>".encode() in deletion.body
    assert b"<Key>c</Key></Object>" in deletion.body
    assert look.line.startswith("HEAD /bkt/a ")
    assert over.headers["if-match"] == '"e0"'
    assert free.headers["if-none-match"] == "*"


async def test_an_object_is_more_than_its_date() -> None:
    """A copy that was made, and an object that is there, do not fail for it."""
    no_date = HEAD.replace(b"Sat, 21 Nov 2026 07:39:22 GMT", b"the day before yesterday, noon")
    body = "<CopyObjectResult><ETag>e</ETag><LastModified>now</LastModified></CopyObjectResult>"
    async with talking(no_date, no_date, answer(body)) as (store, _):
        for _ in range(2):
            assert await store.head("k") == ObjectInfo(
                "k", 5, "e1", 0, Headers({"mode": "33188", "name": "ü"})
            )
        assert (await store.copy("k", "l", size=5)).last_modified == 0


@pytest.mark.parametrize(
    "header", [b"x-amz-missing-meta: many", b"x-amz-mp-parts-count:", b"x-amz-tagging-count: 1.5"]
)
async def test_headers_that_only_botocore_reads(header: bytes) -> None:
    said = HEAD.replace(b"\r\nETag", b"\r\n" + header + b"\r\nETag")
    async with talking(said, said, retries=1) as (store, _):
        assert (await store.head("k")).size == 5


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("<Error><Code>Odd.Code</Code><Message>m</Message></Error>", "Odd.Code"),
        ("<Error><Code>A</Code><Code>B</Code></Error>", "A"),
        ("<Error><Code><Code>A</Code></Code></Error>", "418"),
        ("<Error>SlowDown</Error>", "418"),
        ("<Other><Error>text</Error></Other>", "418"),
        ("<ErrorResponse><Error><Code>A</Code></Error></ErrorResponse>", "A"),
        ("<e:Error xmlns:e='urn:x'><e:Code>A</e:Code></e:Error>", "A"),
        ("<Error><Code>A\nB</Code></Error>", "418"),
        ("<Error><Code>" + "A" * 1000 + "</Code></Error>", "418"),
        ("<Error><Code>A</Code><Message>" + "x" * 100_000, "A"),
        ("<Error>" + "<a>" * 15_000, "418"),
        ("<?xml version='1.0' encoding='nothing'?><Error><Code>A</Code></Error>", "418"),
        ("<html><head>", "418"),
        ("", "418"),
    ],
)  # fmt: skip
async def test_errors(body: str, code: str) -> None:
    async with talking(answer(body, status=418), answer(body, status=418)) as (store, _):
        for _ in range(2):
            with pytest.raises(StoreError) as raised:
                await store.get("k", lambda piece: None)
            assert (raised.value.code, raised.value.status) == (code, 418)
            assert len(str(raised.value)) < 1000


async def test_a_put_is_not_believed_without_reason() -> None:
    """A page of a portal is no answer to a PUT."""
    portal = answer("<html>log in</html>")
    async with talking(portal, portal) as (store, _):
        with pytest.raises(StoreError):
            await store.put("k", BytesBody(b"x"), Headers())


def test_a_listing_with_what_was_stored() -> None:
    entry = (
        "<Contents><Key>f</Key><Size>1</Size><ETag>e</ETag><UserMetadata>"
        "<X-Amz-Meta-Mode>33188</X-Amz-Meta-Mode><content-type>a/b</content-type>"
        "<Cache-Control>no-cache</Cache-Control><expires>%s</expires></UserMetadata></Contents>"
    )
    xmlns = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    for space in ("", xmlns):
        body = (
            f"<ListBucketResult {space}>"
            + entry % "Mon, 01 Jan 0001 00:00:00 GMT"
            + entry % "Sat, 21 Nov 2026 07:39:22 GMT"
            + "<Contents><Key>g</Key><Size>1</Size><ETag>e</ETag></Contents></ListBucketResult>"
        )
        page = parse_listing(body.encode())
        assert page is not None
        first, second, bare = (info.headers for info in page.objects)
        expected = Headers({"mode": "33188"}, "a/b", {"cache-control": "no-cache"})
        assert (first, bare) == (expected, None)
        assert second is not None
        assert second.other["expires"] == "Sat, 21 Nov 2026 07:39:22 GMT"


VERSIONS = (
    "<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>"
    "<NextVersionIdMarker>{}</NextVersionIdMarker>{}</ListVersionsResult>"
)


@pytest.mark.parametrize(
    ("told", "ids", "marker"),
    [
        ("two", ["one", "two"], "two"),
        ("three", ["one", "two"], "three"),
        ("null", ["one", "null"], "null"),
        ("null", ["one", "two"], "two"),
        ("null", [], "null"),
    ],
)
def test_where_a_page_of_versions_ends(told: str, ids: list[str], marker: str) -> None:
    """Swift's s3api says "null" of any; the page after that is empty, whatever is left."""
    listed = [
        GOOD.format("k")
        .replace("Contents", "Version")
        .replace("<Key>", f"<VersionId>{each}</VersionId><Key>")
        for each in ids
    ]
    page = parse_versions(VERSIONS.format(told, "".join(listed)).encode())
    assert page is not None
    assert page.markers == ("k", marker)
    assert len(page.versions) == len(ids)


EMPTY = OK + b"Content-Length: 0\r\n\r\n"
ONE, TWO = "1" * 32, "2" * 32


@pytest.mark.parametrize(
    ("size", "etag", "is_copy"),
    [(5, ONE, True), (6, ONE, False), (5, TWO, False), (5, "e0", False), (5, "e2-2", True)],
)
async def test_a_copy_that_an_empty_answer_tells_of(
    size: int, etag: str, is_copy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename deletes the original after it: what stood there before must not be taken for it."""
    able = replace(capability.UNKNOWN, capabilities=Capabilities())
    monkeypatch.setattr(capability, "UNKNOWN", able)
    there = HEAD.replace(b"Length: 5", b"Length: %d" % size).replace(b"e1", etag.encode())
    there = there.replace(b"33188", b"33152")
    source = "e2-1" if etag == "e2-2" else ONE

    async def speak(seen: Seen) -> bytes:
        if seen.line.startswith("PUT"):
            return EMPTY
        return there if "/l" in seen.line else HEAD.replace(b"e1", source.encode())

    async with talking(speak=speak) as (store, script):
        copy = store.copy("k", "l", size=5, source_if_match=source, target_if_match="e0")
        if is_copy:
            assert (await copy).etag == etag
        else:
            with pytest.raises(NoAnswer):
                await copy
    assert [seen.line.split()[0] for seen in script.seen][:2] == ["PUT", "HEAD"]


@pytest.mark.parametrize("made", [True, False])
async def test_a_copy_onto_itself_that_an_empty_answer_tells_of(
    made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes and its ETag are those of before: only the metadata tell whether it was made."""
    able = replace(capability.UNKNOWN, capabilities=Capabilities())
    monkeypatch.setattr(capability, "UNKNOWN", able)
    old = HEAD.replace(b"e1", ONE.encode())
    new = old.replace(b"33188", b"33152")
    copies = 0

    async def speak(seen: Seen) -> bytes:
        nonlocal copies
        copies += seen.line.startswith("PUT")
        if seen.line.startswith("PUT"):
            return EMPTY
        return new if copies and made else old

    async with talking(speak=speak) as (store, _):
        before = await store.head("k")
        assert before.headers is not None
        wanted = Headers({**before.headers.metadata, "mode": "33152"})
        copy = store.copy("k", "k", size=5, headers=wanted, source_if_match=ONE)
        if made:
            assert (await copy).etag == ONE
        else:
            with pytest.raises(NoAnswer):
                await copy
