"""While one request is tried without what an endpoint may lack, others are sent as they were."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from bucketfs.errors import StoreError
from bucketfs.store.base import BytesBody, Capabilities, Headers
from tests.harness.providers import provider_with
from tests.store.test_answers import answer
from tests.store.test_transport import HEAD, OK, Seen, error, talking

TAGS = answer("<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>")
STORED = OK + b'Content-Length: 0\r\nETag: "e2"\r\n\r\n'


class Odd:
    """Refuses all uploads of "odd" for a reason that nobody knows.

    The tags of "plain" are told when the upload of "odd" is tried without its condition, and that
    is answered when "plain" has been uploaded.
    """

    def __init__(self) -> None:
        self.asked, self.tried, self.stored = trio.Event(), trio.Event(), trio.Event()

    async def say(self, seen: Seen) -> bytes:
        if "?tagging" in seen.line:
            self.asked.set()
            await self.tried.wait()
            return TAGS
        if seen.line.startswith("PUT /bkt/plain"):
            self.stored.set()
            return STORED
        if not seen.line.startswith("PUT"):
            return HEAD
        if "if-match" in seen.headers:
            await self.asked.wait()
        else:
            self.tried.set()
            await self.stored.wait()
        return error(400, "Odd")


async def test_a_condition_that_others_go_without_is_sent() -> None:
    """Or it replaced what others have stored: nobody has looked, as the endpoint compares."""
    odd = Odd()
    async with talking(speak=odd.say, read_timeout=10.0) as (store, script):
        refused: list[StoreError] = []

        async def refuse() -> None:
            with pytest.raises(StoreError) as raised:
                await store.put("odd", BytesBody(b"1"), Headers(), if_match="e1")
            refused.append(raised.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            kept = Headers(keep_tags=True)
            nursery.start_soon(partial(store.put, "plain", BytesBody(b"1"), kept, if_match="e1"))
    uploads = [seen for seen in script.seen if seen.line.startswith("PUT /bkt/plain")]
    assert [seen.headers.get("if-match") for seen in uploads] == ['"e1"']
    assert [one.code for one in refused] == ["Odd"]


def test_what_is_learned_during_a_trial_stays_so() -> None:
    provider = provider_with(Capabilities())
    with provider.without("put_if_match"), provider.unquoted():
        assert not provider.carries("put_if_match")
        assert provider.quote("e") == "e"
        provider.learn(put_if_match=False)
    assert not provider.capabilities.put_if_match
    assert provider.quote("e") == '"e"'
