"""Long listings: the next page is asked for before this one is parsed, and only once."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.errors import StoreError
from bucketfs.store.aws.list_answers import parse_listing, token_ahead
from bucketfs.store.base import BytesBody, Headers, ListPage, ObjectInfo
from bucketfs.store.long_listing import read_pages
from tests.harness.memory import MemoryStore
from tests.store.test_transport import OK, Script, error, talking


def page(key: str, token: str = "", more: bool | None = None) -> bytes:
    truncated = str(bool(token) if more is None else more).lower()
    named = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return (
        f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>"
        f"<Contents><Key>{key}</Key><Size>1</Size></Contents>{named}</ListBucketResult>"
    ).encode()


def answer(body: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


def tokens(script: Script) -> list[str]:
    lines = [seen.line.partition("continuation-token=")[2] for seen in script.seen]
    return [line.split("&")[0].split(" ")[0] for line in lines]


async def read(
    *bodies: bytes, most: int | None = None, **settings: object
) -> tuple[str, bool, Script]:
    taken = ""

    def take(page: ListPage) -> None:
        nonlocal taken
        taken += "".join(info.key for info in page.objects)

    async with talking(*bodies, **settings) as (store, script):
        complete = await read_pages(store, "", take, most=most)
    return taken, complete, script


PAGES = [answer(page("a", "t1")), answer(page("b", "t2")), answer(page("c"))]


async def test_one_request_a_page() -> None:
    taken, complete, script = await read(*PAGES)
    assert (taken, complete) == ("abc", True)
    assert tokens(script) == ["", "t1", "t2"]


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_no_more_than_asked_for(most: int) -> None:
    taken, complete, script = await read(*PAGES, most=most)
    assert (taken, complete) == ("abc"[:most], most == 3)
    assert len(script.seen) == most


async def test_the_next_request_is_out_before_the_page_is_known() -> None:
    """A server that answers the first page only in pieces: the token is enough for the second."""
    heard: list[str] = []
    order: list[str] = []

    class Early(MemoryStore):
        async def list(self, prefix: str, **options: object) -> ListPage:
            token, on_token = options["token"], options["on_token"]
            order.append(f"ask {token}")
            if token is not None:
                return ListPage([], [], None)
            await on_token("t1")
            order.append("parse")
            return ListPage([], [], "t1")

    assert await read_pages(Early(), "", lambda page: heard.append(str(page.next_token)))
    assert order == ["ask None", "ask t1", "parse"]
    assert heard == ["t1", "None"]


async def test_a_wrong_guess_is_thrown_away() -> None:
    """What looks like the token is none: nothing of the page it leads to is taken."""
    comment = b"<!--<NextContinuationToken>no</NextContinuationToken>-->"
    first = page("a", "t1").replace(b"<Contents>", comment + b"<Contents>", 1)
    taken, complete, script = await read(
        answer(first), answer(page("wrong")), answer(page("b")), answer(page("b"))
    )
    assert (taken, complete) == ("ab", True)
    assert tokens(script)[-1] == "t1"


async def test_pages_before_a_failure_are_taken() -> None:
    taken: list[ListPage] = []
    async with talking(PAGES[0], error(403, "AccessDenied")) as (store, _):
        with pytest.raises(StoreError) as raised:
            await read_pages(store, "", taken.append)
    assert raised.value.code == "AccessDenied"
    assert len(taken) == 1


async def test_a_retry_inside() -> None:
    taken, complete, script = await read(PAGES[0], error(503, "SlowDown"), PAGES[2], retries=1)
    assert (taken, complete) == ("ac", True)
    assert tokens(script) == ["", "t1", "t1"]


@pytest.mark.parametrize("most", [None, 1, 3])
async def test_a_store_that_cannot_tell(most: int | None) -> None:
    store = MemoryStore()
    store.page = 2
    for key in "abcde":
        await store.put(key, BytesBody(b"x"), Headers())
    pages: list[ListPage] = []
    complete = await read_pages(store, "", pages.append, most=most)
    keys = [info.key for page in pages for info in page.objects]
    assert keys == list("abcde")[: 2 * (most or 3)]
    assert complete is (most != 1)


async def test_cancellation() -> None:
    store = MemoryStore()
    with trio.CancelScope() as scope:
        scope.cancel()
        await read_pages(store, "", lambda page: None)
    assert scope.cancelled_caught


TOKENS = st.text(st.characters(exclude_characters="\r\x00", exclude_categories=["Cs", "Cc"]))


@given(token=TOKENS, key=st.sampled_from(["k", "<NextContinuationToken>x<", "]]>", "&"]))
def test_guesses_are_right(token: str, key: str) -> None:
    escape = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    text = "".join(escape.get(c, c) for c in token)
    body = page("".join(escape.get(c, c) for c in key), text)
    parsed = parse_listing(body)
    assert parsed is not None
    assert parsed.objects == [ObjectInfo(key, 1, "", 0)]
    assert token_ahead(body) == parsed.next_token
    assert token_ahead(page("k", text, more=False)) == ""
