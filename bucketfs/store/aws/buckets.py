"""Which buckets an account has, and making and deleting them. No policy, as in `s3`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from bucketfs.errors import NoAnswer, NotFound, StoreError
from bucketfs.store.aws.answers import time_told, translate
from bucketfs.store.aws.connection import Connection
from bucketfs.store.aws.list_answers import parse_listing
from bucketfs.store.config import StoreConfig

T = TypeVar("T")

#: Buckets asked for at once at Amazon, the most it takes: an account may have more than it shows
#: to who does not ask for pages. Others show all.
_PAGE: Final = 10_000
#: Answers of one that is in another region.
_ELSEWHERE: Final = (HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT)
#: Where a bucket is when nothing is said about it; Amazon refuses that very name.
_DEFAULT_REGION: Final = "us-east-1"


class Repeat(Protocol):
    """Sends the request of an operation on a bucket until it holds."""

    async def __call__(self, operation: str, name: str, send: Callable[[], Awaitable[T]]) -> T: ...


class AccountBuckets:
    """The buckets of who has the keys.

    Args:
        connection: An open client.
        config: How the endpoint is reached; its bucket does not matter.
        repeat: Repeats requests that failed.
    """

    def __init__(self, connection: Connection, config: StoreConfig, repeat: Repeat) -> None:
        self._connection = connection
        self._config = config
        self._repeat = repeat

    async def check(self) -> None:
        """Ask once whether anybody is there. Raises StoreError."""
        await self._send("ListBuckets", "", {})

    async def names(self) -> dict[str, int]:
        """All buckets, with the Unix time at which they were made, 0 if that is not told.

        Raises:
            StoreError: The endpoint does not say.
        """
        found: dict[str, int] = {}
        params: dict[str, Any] = {"MaxBuckets": _PAGE} if self._config.is_aws else {}
        while True:
            answer = await self._call("ListBuckets", "", params)
            for each in answer.get("Buckets") or ():
                if name := each.get("Name"):
                    found[name] = time_told(each.get("CreationDate"))
            token = answer.get("ContinuationToken")
            if not token or token == params.get("ContinuationToken"):
                return found
            params = {**params, "ContinuationToken": token}

    async def exists(self, name: str) -> bool:
        """Whether there is a bucket of this name. Raises StoreError, also if it is not ours."""
        try:
            await self._call("HeadBucket", name, {"Bucket": name})
        except NotFound:
            return False
        except StoreError as error:
            if error.status not in _ELSEWHERE:
                raise
        return True

    async def create(self, name: str) -> None:
        """Make a bucket in the region of the mount.

        Raises:
            StoreError: It is refused.
        """
        region = self._connection.client.meta.region_name
        placed = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        elsewhere = region not in ("", _DEFAULT_REGION)
        params = placed if elsewhere and self._config.is_aws else {}
        try:
            await self._made(name, params)
        except StoreError as error:
            # most servers know no regions, and refuse the name of one; some want it
            if error.code != "IllegalLocationConstraintException" or params or not elsewhere:
                raise
            await self._made(name, placed)

    async def _made(self, name: str, params: dict[str, Any]) -> None:
        sent = 0

        async def send() -> None:
            nonlocal sent
            sent += 1
            try:
                await self._send("CreateBucket", name, {"Bucket": name, **params})
            except StoreError as error:
                # an earlier attempt has arrived, whose answer was lost
                if sent == 1 or error.code != "BucketAlreadyOwnedByYou":
                    raise

        await self._repeat("CreateBucket", name, send)

    async def delete(self, name: str) -> None:
        """Delete an empty bucket.

        That it is empty is seen here, too: SeaweedFS deletes a bucket with all that is in it.

        Raises:
            StoreError: It is refused, with BucketNotEmpty if it is not empty.
        """
        if await self._has_objects(name):
            raise StoreError(
                "BucketNotEmpty", status=HTTPStatus.CONFLICT, operation="DeleteBucket", key=name
            )
        sent = 0

        async def send() -> None:
            nonlocal sent
            sent += 1
            try:
                await self._send("DeleteBucket", name, {"Bucket": name})
            except NotFound:
                if sent == 1:
                    raise

        await self._repeat("DeleteBucket", name, send)

    async def _has_objects(self, name: str) -> bool:
        answer = await self._call("ListObjects", name, {"Bucket": name, "MaxKeys": 1})
        page = parse_listing(answer.get("Listing", b""))
        if page is None:
            raise NoAnswer("BadAnswer", operation="ListObjects", key=name, message="no listing")
        return bool(page.objects) or page.truncated

    async def _call(self, operation: str, name: str, params: dict[str, Any]) -> Any:
        return await self._repeat(operation, name, lambda: self._send(operation, name, params))

    async def _send(self, operation: str, name: str, params: dict[str, Any]) -> Any:
        """One request. Raises StoreError and nothing else."""
        try:
            return await self._connection.request(operation, params)
        except (BotoCoreError, ClientError, ResponseParserError) as exc:
            raise translate(exc, operation, name) from None
