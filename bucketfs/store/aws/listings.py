"""Listings of a bucket: its objects, their versions, and unfinished uploads, a page at a time.

Asks as the endpoint understands it, and reads the answers (`list_answers`): version 1 of
ListObjects where there is no version 2, what was stored with the objects where the endpoint can
tell it, and the old answers of those that mistake one for the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from bucketfs.errors import StoreError, Unsupported
from bucketfs.store.aws.answers import unusable, with_version
from bucketfs.store.aws.list_answers import (
    Listing,
    parse_listing,
    parse_uploads,
    parse_versions,
    token_ahead,
)
from bucketfs.store.base import (
    Headers,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    OnToken,
    UploadInfo,
    VersionPage,
)
from bucketfs.store.capability import Provider
from bucketfs.store.long_listing import Repeats, tell_left_out
from bucketfs.store.refusal import is_refusal

#: Most keys S3 shows in one page.
FULL_PAGE: Final = 1000
#: What a listing tells of an object without user metadata, when that is all it tells.
_NO_METADATA: Final = Headers(partial=True)
#: What tokens of version 1 begin with, which are keys: what has begun in one version goes on in it.
_OF_VERSION_1: Final = "\0"
_Params = dict[str, Any]


class Listings:
    """Asks for listings.

    Args:
        call: Sends a request: operation, the key or prefix it is about, parameters. Raises
            StoreError and nothing else.
        always: Parameters of each request.
        provider: What is known of the endpoint; it learns from what is seen here.
    """

    def __init__(
        self,
        call: Callable[[str, str, _Params], Awaitable[Any]],
        always: Mapping[str, Any],
        provider: Provider,
    ) -> None:
        self._call = call
        self._always = always
        self._provider = provider

    async def page(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        token: str | None = None,
        start_after: str = "",
        limit: int = FULL_PAGE,
        on_token: OnToken | None = None,
    ) -> ListPage:
        """As `Store.list`."""
        params: _Params = {"Prefix": prefix, "MaxKeys": limit}
        if delimiter:
            params["Delimiter"] = delimiter
        if token and token.startswith(_OF_VERSION_1):
            return await self._list_v1(params, delimiter, token.removeprefix(_OF_VERSION_1))
        if token:
            page = await self._next_page(params, token, on_token)
            return page.answer(prefix, delimiter, page.next_token if page.truncated else None)
        return await self._first_page(params, delimiter, start_after, on_token)

    async def _next_page(self, params: _Params, token: str, on_token: OnToken | None) -> Listing:
        """A page of version 2 behind the first."""
        prefix = params["Prefix"]
        params = {**params, "ContinuationToken": token}
        page = await self._page_with_headers(prefix, params, on_token)
        if page.next_token == token:
            raise unusable("ListObjectsV2", prefix, "the next page is the same again")
        if page.truncated and not page.next_token:
            raise unusable("ListObjectsV2", prefix, "nothing says where the next page begins")
        return page

    async def _first_page(
        self, params: _Params, delimiter: str, start_after: str, on_token: OnToken | None
    ) -> ListPage:
        """A page that tells whether the endpoint knows version 2, if that is not known."""
        if not self._provider.list_v2:
            return await self._list_v1(params, delimiter, start_after)
        prefix = params["Prefix"]
        asked = {**params, "StartAfter": start_after} if start_after else params
        try:
            page = await self._page_with_headers(prefix, asked, on_token)
        except Unsupported:
            page = None
        if page is None or page.version_1 or (page.truncated and not page.next_token):
            # The endpoint took the request for one of version 1, and ignored where to start.
            self._provider.demote_list()
            if page is None or page.truncated or start_after:
                return await self._list_v1(params, delimiter, start_after)
        return page.answer(prefix, delimiter, page.next_token if page.truncated else None)

    async def uploads(self, prefix: str) -> Sequence[UploadInfo]:
        """As `Store.list_uploads`."""
        uploads: list[UploadInfo] = []
        # botocore asks for encoded keys and decodes them in the other listings, not in this one.
        params: _Params = {"Prefix": prefix, "EncodingType": "url"}
        marker: _Params = {}
        repeats = Repeats()
        while True:
            answer = await self._ask("ListMultipartUploads", prefix, {**params, **marker})
            page = parse_uploads(answer.get("Listing", b""))
            if page is None:
                raise unusable("ListMultipartUploads", prefix, "no listing")
            tell_left_out(prefix, page.left_out)
            uploads += page.uploads
            if not page.truncated or not page.key_marker:
                return uploads
            marker = {"KeyMarker": page.key_marker, "UploadIdMarker": page.id_marker}
            where = f"{page.key_marker}\0{page.id_marker}"
            if why := repeats.seen(where, empty=not (page.uploads or page.left_out)):
                raise unusable("ListMultipartUploads", prefix, why)

    async def page_of_versions(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        markers: tuple[str, str] | None = None,
        limit: int = FULL_PAGE,
    ) -> VersionPage:
        """One page of all versions below a prefix, old ones and delete markers among them.

        Args:
            prefix: As for `Store.list`.
            delimiter: As for `Store.list`.
            markers: As the page before has them, None for the first page.
            limit: Most versions and prefixes in the page.

        Raises:
            StoreError: Unsupported where the endpoint has no such operation.
        """
        params: _Params = {"Prefix": prefix, "MaxKeys": limit, "EncodingType": "url"}
        if delimiter:
            params["Delimiter"] = delimiter
        if markers is not None:
            params["KeyMarker"] = markers[0]
            params |= {"VersionIdMarker": markers[1]} if markers[1] else {}
        answer = await self._ask("ListObjectVersions", prefix, params)
        page = parse_versions(answer.get("Listing", b""))
        if page is None:
            raise unusable("ListObjectVersions", prefix, "no listing")
        return page

    async def versions(self, key: str) -> Sequence[ObjectVersion]:
        """As `Store.versions`."""
        found: list[ObjectVersion] = []
        markers, repeats = None, Repeats()
        while True:
            page = await self.page_of_versions(key, delimiter="", markers=markers)
            of_key = [version for version in page.versions if version.info.key == key]
            found += of_key
            markers = page.markers
            if markers is None or len(of_key) < len(page.versions):
                return found
            if why := repeats.seen("\0".join(markers), empty=not page.versions):
                raise unusable("ListObjectVersions", key, why)

    def ask_for_headers(self, params: dict[str, Any], **_: object) -> None:
        """Have a listing bring what was stored with the objects, see `Profile.listing`."""
        if not self._provider.listed_headers:
            return
        match self._provider.listing:
            case "tigris":
                params["headers"]["X-Tigris-List-Metadata"] = "true"
            case "ext-v1":
                params["url"] = params["url"].replace("list-type=2", "list-type=ext-v1", 1)
            case _:
                params["url"] += "&metadata=true"

    async def _list_v1(self, params: _Params, delimiter: str, marker: str) -> ListPage:
        prefix = params["Prefix"]
        page = await self._page("ListObjects", prefix, {**params, "Marker": marker})
        if not page.truncated:
            return page.answer(prefix, delimiter, None)
        last = [page.objects[-1].key] if page.objects else []
        following = page.next_marker or max([*last, *page.prefixes[-1:]], default="")
        if following <= marker:
            raise Unsupported("BadAnswer", operation="ListObjects", key=prefix)
        return page.answer(prefix, delimiter, _OF_VERSION_1 + following)

    async def _page_with_headers(
        self, prefix: str, params: _Params, on_token: OnToken | None
    ) -> Listing:
        """A page of ListObjectsV2, asked for with what was stored with the objects if that helps.

        Most endpoints overlook a parameter that they do not know; one that refuses it is asked
        without.
        """
        asked = self._provider.listed_headers
        try:
            page = await self._page("ListObjectsV2", prefix, params, on_token)
        except StoreError as exc:
            # who says that there is no such operation is asked for version 1 of it
            is_old = isinstance(exc, Unsupported) and self._provider.listing == "metadata"
            if not asked or is_old or not is_refusal(exc):
                raise
            with self._provider.without_listed_headers() as trial:
                page = await self._page("ListObjectsV2", prefix, params, on_token)
                trial.holds()
            return page
        if self._provider.listed(page.objects, asked=asked):
            return replace(page, objects=[_as_told(info) for info in page.objects])
        return page

    async def _page(
        self, operation: str, prefix: str, params: _Params, on_token: OnToken | None = None
    ) -> Listing:
        answer = await self._ask(operation, prefix, params)
        body: bytes = answer.get("Listing", b"")
        if on_token is not None and (token := token_ahead(body)):
            await on_token(token)
        page = parse_listing(body)
        if page is None:
            raise unusable(operation, prefix, "no listing")
        if not self._provider.capabilities.etags or not all(info.etag for info in page.objects):
            # s3proxy names none of a marker, and of all others
            files = [info for info in page.objects if not info.key.endswith("/")]
            if files and not any(info.etag for info in files):
                self._provider.miss_etags()
            etags = self._provider.capabilities.etags
            return replace(page, objects=[with_version(info, etags=etags) for info in page.objects])
        return page

    async def _ask(self, operation: str, prefix: str, params: _Params) -> Any:
        return await self._call(operation, prefix, {**self._always, **params})


def _as_told(info: ObjectInfo) -> ObjectInfo:
    return info if info.headers is not None else replace(info, headers=_NO_METADATA)
