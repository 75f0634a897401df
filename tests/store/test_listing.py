"""Our reading of listings against botocore's, on pages as servers write them."""

from __future__ import annotations

from urllib.parse import quote_plus
from xml.sax.saxutils import escape

import pytest
from botocore.handlers import decode_list_object, decode_list_object_v2
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import RestXMLParser
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.credentials import Anonymous
from bucketfs.errors import NoAnswer
from bucketfs.store.aws.answers import storage_class, unix_time, unquote
from bucketfs.store.aws.list_answers import Listing, parse_listing, token_ahead
from bucketfs.store.base import Headers, ObjectInfo, is_etag
from bucketfs.store.capability import Provider
from bucketfs.store.config import StoreConfig
from tests.store.test_transport import talking

MODEL = ServiceModel(Loader().load_service_model("s3", "service-2"))
DECODERS = {"ListObjects": decode_list_object, "ListObjectsV2": decode_list_object_v2}

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
# what XML can carry as it is, and does not change on the way (a carriage return becomes a newline)
PLAIN = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1
)


def by_botocore(body: bytes, operation: str) -> Listing:
    answer = RestXMLParser(timestamp_parser=str).parse(
        {"status_code": 200, "headers": {}, "body": body},
        MODEL.operation_model(operation).output_shape,  # type: ignore[arg-type]
    )
    DECODERS[operation](answer, {"encoding_type_auto_set": True})
    return Listing(
        [
            ObjectInfo(
                one["Key"],
                one.get("Size", 0),
                unquote(one.get("ETag")),
                unix_time(one.get("LastModified", "")),
                None,
                storage_class(one.get("StorageClass")),
            )
            for one in answer.get("Contents", [])
        ],
        [one["Prefix"] for one in answer.get("CommonPrefixes", [])],
        answer.get("IsTruncated", False),
        answer.get("NextContinuationToken", ""),
        answer.get("NextMarker", ""),
    )


def page(keys: list[str], prefixes: list[str], top: dict[str, str], space: str = "") -> bytes:
    """A page as Ceph writes it."""
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-21T09:12:2{at % 10}.352Z"
        f"</LastModified><ETag>&quot;{at:032x}&quot;</ETag><Size>{at}</Size>"
        f"<StorageClass>{'STANDARD' if at % 2 else 'COLD'}</StorageClass>"
        "<Owner><ID>test</ID><DisplayName>Test</DisplayName></Owner><Type>Normal</Type></Contents>"
        for at, key in enumerate(keys)
    )
    common = "".join(
        f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>" for prefix in prefixes
    )
    head = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in top.items())
    named = f' xmlns="{space}"' if space else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult{named}>'
        f"{head}{contents}{common}</ListBucketResult>"
    ).encode()


@given(
    keys=st.lists(KEYS),
    prefixes=st.lists(KEYS),
    truncated=st.booleans(),
    marker=KEYS,
    space=st.sampled_from(["", "http://s3.amazonaws.com/doc/2006-03-01/"]),
    operation=st.sampled_from(list(DECODERS)),
)
def test_encoded_pages(
    keys: list[str],
    prefixes: list[str],
    truncated: bool,
    marker: str,
    space: str,
    operation: str,
) -> None:
    top = {"Name": "b", "Prefix": "p%2F", "EncodingType": "url", "Delimiter": "%2F"}
    top |= {"IsTruncated": str(truncated).lower()}
    if operation == "ListObjects":
        top["NextMarker"] = quote_plus(marker)
    else:
        top["NextContinuationToken"] = "a+%2Ftoken"
    body = page([quote_plus(k) for k in keys], [quote_plus(p) for p in prefixes], top, space)
    ours = parse_listing(body)
    assert ours == by_botocore(body, operation)
    assert ours
    assert [one.key for one in ours.objects] == keys
    assert ours.prefixes == prefixes


@given(keys=st.lists(PLAIN), prefixes=st.lists(PLAIN))
def test_plain_pages(keys: list[str], prefixes: list[str]) -> None:
    """An endpoint that encodes nothing: its percent signs and pluses are part of the keys."""
    body = page(keys, prefixes, {"IsTruncated": "false"})
    ours = parse_listing(body)
    assert ours == by_botocore(body, "ListObjectsV2")
    assert ours
    assert [one.key for one in ours.objects] == keys


@given(codes=st.lists(st.integers(0, 31), min_size=1), hexadecimal=st.booleans())
def test_characters_that_xml_forbids(codes: list[int], hexadecimal: bool) -> None:
    """Ceph 16 writes them into token, marker and prefix, which it does not encode."""
    text = "a" + "".join(map(chr, codes)) + "é"
    bare = "a" + "".join(f"&#x{code:02x};" if hexadecimal else f"&#{code};" for code in codes) + "é"
    body = page(["a%01b"], [], {"EncodingType": "url", "IsTruncated": "true"}).replace(
        b"<IsTruncated>",
        f"<Prefix>{bare}</Prefix><NextMarker>{bare}</NextMarker>"
        f"<NextContinuationToken>{bare}</NextContinuationToken><IsTruncated>".encode(),
    )
    ours = parse_listing(body)
    assert ours
    assert [one.key for one in ours.objects] == ["a\x01b"]
    allowed = str.maketrans({"\r": "\n"}) if not set(codes) - {9, 10, 13} else {}
    assert ours.next_token.translate(allowed) == text.translate(allowed)
    assert ours.next_marker.translate(allowed) == text.translate(allowed)
    assert not token_ahead(body)


def test_a_page_of_few_words() -> None:
    entry = b"<Contents>\n <Key>k</Key>\n <Size>1</Size>\n</Contents>"
    body = b"<ListBucketResult>" + entry + b"</ListBucketResult>"
    assert parse_listing(body) == Listing([ObjectInfo("k", 1, "", 0)], [], False, "", "")


@pytest.mark.parametrize("body", [b"", b"<html>", b"<Error><Code>SlowDown</Code></Error>"])
async def test_no_listing(body: bytes) -> None:
    """A directory must not look empty because a proxy had a bad moment."""
    assert parse_listing(body) is None
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with talking(answer) as (store, _):
        with pytest.raises(NoAnswer if not body else Exception):
            await store.list("")


async def test_one_entry_without_an_etag_says_nothing_of_the_endpoint() -> None:
    """It alone is told apart by size and time; a page without any is of one that names none."""

    def page(*etags: str) -> bytes:
        entries = "".join(
            f"<Contents><Key>{number}</Key><Size>3</Size>{etag}"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for number, etag in enumerate(etags)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    named = "<ETag>&quot;abc&quot;</ETag>"
    async with talking(page(named, ""), page("", "")) as (store, _):
        first, second = (await store.list("")).objects
        assert (first.etag, is_etag(second.etag)) == ("abc", False)
        assert store.capabilities.etags
        assert store.capabilities.multipart
        await store.list("")
        assert not store.capabilities.etags


def test_metadata_that_an_entry_tells() -> None:
    """As Tigris and Yandex write it."""
    body = b"""<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
    <Contents><Key>a</Key><Size>1</Size><ETag>"e"</ETag>
      <Metadata><Name>Mode</Name><Value>33184</Value></Metadata>
      <Metadata><Name>X-Amz-Meta-Colour</Name><Value>a &amp; b</Value></Metadata>
      <Metadata><Name>empty</Name><Value></Value></Metadata>
      <Metadata></Metadata>
    </Contents>
    <Contents><Key>b</Key><Size>1</Size><ETag>"e"</ETag></Contents>
    </ListBucketResult>"""
    page = parse_listing(body)
    assert page is not None
    first, second = page.objects
    assert first.headers == Headers({"mode": "33184", "colour": "a & b", "empty": ""})
    assert first.headers is not None
    assert first.headers.partial
    assert second.headers is None


@pytest.mark.parametrize("listing", ["tigris", "ext-v1"])
def test_what_a_listing_says_by_silence(listing: str) -> None:
    """That there is no metadata: at once, or when another object has shown that it tells."""
    provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
    provider.listing = listing
    silent = ObjectInfo("a", 1, "e", 0)
    telling = ObjectInfo("b", 1, "e", 0, Headers({"mode": "1"}, partial=True))
    assert not provider.listed([silent, telling], asked=False)
    assert provider.listed([silent], asked=True) == (listing == "ext-v1")
    assert provider.listed([silent, telling], asked=True)
    assert provider.listed([silent], asked=True)
    assert provider.listed_headers
