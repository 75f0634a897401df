"""Listening to a bucket's feed of changes (`bucketfs.store.feed`): one request without an end.

botocore knows no such request. It is GetBucketNotificationConfiguration with another query, which
botocore addresses and signs like any other request for the bucket (and which nothing else here
sends); the answer is taken from it before it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from aiobotocore.awsrequest import AioAWSResponse
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from bucketfs.errors import NoAnswer, StoreError, Unsupported
from bucketfs.store import feed
from bucketfs.store.aws.answers import translate
from bucketfs.store.base import Hear
from bucketfs.store.http.transport import RawResponse, TrioSession
from bucketfs.store.refusal import is_refusal

#: Whose address and signature the request has.
_HOST_OPERATION: Final = "GetBucketNotificationConfiguration"
#: What the request is called in the log and in errors.
OPERATION: Final = "ListenNotification"


async def listen(client: Any, params: Mapping[str, Any], prefix: str, hear: Hear) -> None:
    """As `Store.follow`, of the changes that anybody makes.

    Args:
        client: aiobotocore's.
        params: Which bucket.
        prefix: What the keys begin with.
        hear: Told of the changes.
    """
    lines, alive = feed.Lines(), False

    def take(piece: bytes | memoryview) -> None:
        nonlocal alive
        for line in lines.add(piece):
            changes = feed.parse(line, prefix)
            alive = alive or bool(line.strip())
            if alive:
                hear(changes)

    try:
        body = await _answer(client, params, feed.query(prefix))
        await body.feed(take)
    except feed.NoFeed as exc:
        if alive:
            raise NoAnswer("BadAnswer", operation=OPERATION, message=str(exc)) from None
        raise _lacking(str(exc)) from None
    except (BotoCoreError, ClientError, ResponseParserError) as exc:
        raise _failure(translate(exc, OPERATION, "")) from None
    if not alive:
        raise _lacking("the answer ended without one line")
    raise NoAnswer("ConnectionClosed", operation=OPERATION, message="the feed has ended")


def _failure(failure: StoreError) -> StoreError:
    refused = is_refusal(failure) or failure.status == HTTPStatus.NOT_FOUND
    if not refused or failure.code == "NoSuchBucket":
        return failure
    return failure.recast(Unsupported)


def _lacking(message: str) -> Unsupported:
    return Unsupported("NotImplemented", operation=OPERATION, message=message)


async def _answer(client: Any, params: Mapping[str, Any], query: str) -> RawResponse:
    """The unread answer to a query about the bucket. Raises botocore's exceptions."""
    sending = _Sending(client._endpoint.http_session, query)  # noqa: SLF001 - see `internals`
    events = client.meta.events
    events.register(f"before-call.s3.{_HOST_OPERATION}", sending.ask)
    events.register(f"before-send.s3.{_HOST_OPERATION}", sending.send)
    try:
        await client.get_bucket_notification_configuration(**params)
    finally:
        events.unregister(f"before-call.s3.{_HOST_OPERATION}", sending.ask)
        events.unregister(f"before-send.s3.{_HOST_OPERATION}", sending.send)
    assert sending.body is not None, "botocore raises what is an error"
    return sending.body


class _Sending:
    """Sends the request in botocore's place, and keeps the answer's body from it.

    Args:
        session: Sends it.
        query: Takes the place of the operation's.

    Attributes:
        body: That of the answer, unread; None of an error, which is botocore's.
    """

    def __init__(self, session: TrioSession, query: str) -> None:
        self._session = session
        self._query = query
        self.body: RawResponse | None = None

    def ask(self, params: dict[str, Any], **_: object) -> None:
        """Before botocore signs the request."""
        scheme, host, path, *_ = urlsplit(params["url"])
        params["url"] = urlunsplit((scheme, host, path, self._query, ""))

    async def send(self, request: Any, **_: object) -> Any:
        """In place of botocore's sending."""
        request.stream_output = True
        request.context = {"read_timeout": feed.SILENCE}
        response = await self._session.send(request)
        if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
            return response
        self.body = response.raw
        return AioAWSResponse(request.url, response.status_code, response.headers, _Nothing())


class _Nothing:
    """The body that botocore gets to see."""

    async def read(self) -> bytes:
        return b""
