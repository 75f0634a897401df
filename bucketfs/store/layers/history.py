"""Old versions as files: what a mount with ``-o versions`` shows in ``.versions``.

Keys that begin with a slash name no objects of a mount. These name what the bucket ever had
(`OLD` is ``/.versions/``, and DIR begins with the mounted prefix)::

    /.versions/DIR/.versions/NAME/            what was ever called DIR/NAME
    /.versions/DIR/.versions/NAME/TIME.ID     version ID of the object of that key
    /.versions/DIR/.versions/NAME/NAME/       what was ever called so in a directory DIR/NAME

All other keys are the bucket's own and are passed on.

What a listing has told is remembered for `keep` seconds, or until something is written there by
this mount. What a version is never changes, so that is remembered without an end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeVar
from urllib.parse import quote

from cachetools import LRUCache

from bucketfs import clock
from bucketfs.errors import NotFound, StoreError
from bucketfs.store.base import (
    NO_CONDITIONS,
    OLD,
    PROBE,
    VERSIONS,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    OnToken,
    Sink,
    VersionPage,
    ignored,
)
from bucketfs.store.layers.past import check_repeats
from bucketfs.store.layers.wrapper import Call, StoreWrapper, VersionedStore
from bucketfs.store.long_listing import Repeats
from bucketfs.tasks import Shared

T = TypeVar("T")

#: What is remembered: of names, which versions they have; of files, which version they are.
_REMEMBERED: Final = 20_000
#: The id of what was stored while the bucket kept no versions: each such upload replaces the last.
_UNVERSIONED: Final = "null"
#: Versions that are asked for where one is looked for: most directories have fewer.
_FEW: Final = 20
#: What the name of a version looks like.
_NAME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ(~\d{3,})?\..+")
#: Calls after which the bucket has the same versions as before.
_READING: Final = frozenset(
    {
        "Check",
        "GetObject",
        "GetObjectTagging",
        "HeadObject",
        "ListMultipartUploads",
        "ListObjectVersions",
        "ListObjectsV2",
    }
)


def is_version(name: str) -> bool:
    """Whether a name is one that `named` gives."""
    return _NAME.fullmatch(name) is not None


def named(versions: Sequence[ObjectVersion]) -> dict[str, ObjectVersion]:
    """The versions of one key by the names of their files, which sort by time; no deletions.

    Args:
        versions: The newest first.
    """
    found: dict[str, ObjectVersion] = {}
    moment, count = -1, 0
    for version in reversed(versions):
        if version.info.last_modified != moment:
            moment, count = version.info.last_modified, 0
        if not version.deleted:
            # "~" sorts behind ".", in the C locale and in others
            later = f"~{count:03}" if count else ""
            time = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            found[f"{time}{later}.{quote(version.version_id, safe='')}"] = version
        count += 1
    return found


@dataclass(frozen=True, slots=True)
class Name:
    """What there ever was of a name.

    Attributes:
        versions: Of the object of that key, the newest first, deletions among them.
        below: There was something in a directory of that name.
    """

    versions: Sequence[ObjectVersion]
    below: bool

    @property
    def existed(self) -> bool:
        """Whether there is anything to show."""
        return self.below or any(not version.deleted for version in self.versions)


def certain(page: VersionPage, begun: str) -> dict[str, Name]:
    """The names of which a page with delimiter "/" tells all, by key.

    Args:
        page: By key in byte order.
        begun: The key or prefix that the page before ended with, "" for none.
    """
    last = max((v.info.key for v in page.versions), default="")
    end = max([last, *page.prefixes], default="")
    by_key: dict[str, list[ObjectVersion]] = {}
    for version in page.versions:
        by_key.setdefault(version.info.key, []).append(version)
    for prefix in page.prefixes:
        by_key.setdefault(prefix[:-1], [])
    prefixes = frozenset(page.prefixes)
    found = {}
    for key, versions in by_key.items():
        whole = page.markers is None or end >= f"{key}/"
        if whole and key > begun:
            found[key] = Name(versions, f"{key}/" in prefixes)
    return found


class HistoryStore(StoreWrapper):
    """See the module.

    Args:
        inner: The bucket.
        prefix: What is mounted of it.
        keep: Seconds for which it holds which versions a name has.
    """

    def __init__(self, inner: VersionedStore, *, prefix: str, keep: float) -> None:
        super().__init__(inner)
        self._bucket = inner
        self._prefix = prefix
        self._keep = keep
        self._names: LRUCache[str, tuple[Name, float]] = LRUCache(_REMEMBERED)
        self._pages: LRUCache[str, tuple[VersionPage, float]] = LRUCache(256)
        self._files: LRUCache[str, tuple[str, str]] = LRUCache(_REMEMBERED)
        self._infos: LRUCache[str, ObjectInfo] = LRUCache(_REMEMBERED)
        self._asking: dict[str, Shared] = {}
        self._changes = 0

    async def around(self, call: Call, send: Callable[[], Awaitable[T]]) -> T:
        if call.key.startswith("/"):
            raise StoreError(
                "AccessDenied", status=403, operation=call.operation, key=call.key,
                message="an old version cannot be changed",
            )  # fmt: skip
        try:
            return await send()
        finally:
            if call.operation not in _READING:
                self._changed(call.key)

    def _changed(self, key: str) -> None:
        """A request may have given a key another version."""
        self._changes += 1
        while key:
            key = key.rstrip("/")
            self._names.pop(key, None)
            key = key[: key.rfind("/") + 1]
            self._pages.pop(key, None)

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        try:
            return await super().delete_many(keys, if_match=if_match)
        finally:
            for key in keys:
                self._changed(key)

    # ---- versions as objects ---------------------------------------------------------------------

    async def head(self, key: str) -> ObjectInfo:
        if not key.startswith("/"):
            return await super().head(key)
        if (known := self._infos.get(key)) is not None:
            return known
        real, version = await self._file(key, "HeadObject")
        info = replace(await self._bucket.head(real, version=version), key=key)
        if key in self._files:
            self._infos[key] = info
        return info

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        """Of old versions it tells nothing: which version each key names has to be found out."""
        await super().heads([key for key in keys if not key.startswith("/")], told, failed)

    async def get(
        self,
        key: str,
        sink: Sink,
        *,
        start: int = 0,
        stop: int | None = None,
        if_match: str = "",
        size: int | None = None,
    ) -> ObjectInfo:
        if not key.startswith("/"):
            return await super().get(
                key, sink, start=start, stop=stop, if_match=if_match, size=size
            )
        real, version = await self._file(key, "GetObject")
        info = await self._bucket.get(
            real, sink, start=start, stop=stop, if_match=if_match, size=size, version=version
        )
        return replace(info, key=key)

    async def details(self, key: str) -> Mapping[str, str]:
        if not key.startswith("/"):
            return await super().details(key)
        real, version = await self._file(key, "HeadObject")
        return await self._bucket.details(real, version=version)

    async def tags(self, key: str) -> Mapping[str, str]:
        if not key.startswith("/"):
            return await super().tags(key)
        real, version = await self._file(key, "GetObjectTagging")
        return await self._bucket.tags(real, version=version)

    async def presigned_url(self, key: str, seconds: int) -> str:
        if not key.startswith("/"):
            return await super().presigned_url(key, seconds)
        real, version = await self._file(key, "GetObject")
        return await self._bucket.presigned_url(real, seconds, version=version)

    async def list(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        token: str | None = None,
        start_after: str = "",
        limit: int = 1000,
        on_token: OnToken | None = None,
    ) -> ListPage:
        if prefix.startswith("/"):
            if not delimiter:
                return await self._anything(prefix, listing=bool(start_after))
            return await self._directory(prefix, token, start_after)
        return await super().list(
            prefix,
            delimiter=delimiter,
            token=token,
            start_after=start_after,
            limit=limit,
            on_token=on_token,
        )

    def _real(self, key: str) -> tuple[str, bool]:
        """The key in the bucket, and whether it is that of the directory itself that is shown."""
        below = key.removeprefix(OLD + self._prefix)
        directory, _, path = f"/{below}".partition(f"/{VERSIONS}/")
        base = f"{directory[1:]}/" if directory else ""
        return self._prefix + base + path, not path

    async def _file(self, key: str, operation: str) -> tuple[str, str]:
        """Key and id of the version that a file is, or of a directory's own object."""
        if key.endswith("/"):
            real, _ = self._real(key)
            marker = await self._marker(real)
            if marker is not None:
                return real, marker.version_id
        elif (version := await self._version(key)) is not None:
            return version
        raise NotFound("NoSuchKey", status=404, operation=operation, key=key)

    async def _version(self, key: str) -> tuple[str, str] | None:
        """What to ask for a version; None: there is none of that name, but perhaps a directory."""
        if (known := self._files.get(key)) is not None:
            return known
        above, _, name = key.rpartition("/")
        real, is_top = self._real(f"{above}/")
        if is_top or not is_version(name):
            return None
        found = named((await self._name(real[:-1])).versions).get(name)
        return None if found is None else self._remember(key, found)

    async def _marker(self, key: str) -> ObjectVersion | None:
        """The newest version of a directory's own object."""
        known = self._names.get(key[:-1])
        if known is not None and not known[0].below:
            return None
        return _newest(await self._bucket.list_versions(key, delimiter="/", limit=_FEW), key)

    def _remember(self, key: str, version: ObjectVersion) -> tuple[str, str]:
        """What to ask for a version, which may be listed no more."""
        asked = version.info.key, version.version_id
        if version.version_id != _UNVERSIONED:
            self._files[key] = asked
        elif version.latest:
            return version.info.key, ""  # moto takes no id where no versions were ever kept
        return asked

    def _show(self, above: str, versions: Sequence[ObjectVersion]) -> Sequence[ObjectInfo]:
        """The files in a directory of versions."""
        shown = []
        for name, version in named(versions).items():
            self._remember(key := f"{above}/{name}", version)
            shown.append(replace(version.info, key=key))
        return shown

    async def _anything(self, prefix: str, *, listing: bool) -> ListPage:
        """Whether there is anything in a directory; what is listed ahead is not told."""
        real, _ = self._real(prefix)
        if listing or await self._version(prefix[:-1]) is not None:
            return ListPage([], [], None)
        name = await self._name(real[:-1])
        # it may have an object of its own; whether it has is found out by who wants its attributes
        anything = ObjectInfo(prefix if name.below else f"{prefix}any", 0, "any", 0)
        return ListPage([anything] if name.existed else [], [], None)

    async def _directory(self, prefix: str, token: str | None, start_after: str) -> ListPage:
        """One page of a directory: the versions of its name, and the names that were in it."""
        real, is_top = self._real(prefix)
        files: Sequence[ObjectInfo] = ()
        if token is None and not is_top:
            name = await self._name(real[:-1])
            files = self._show(prefix[:-1], name.versions)
            if not name.below:
                return _behind(ListPage(files, [], None), start_after)
        page = await self._page(real, token)
        if token is None and not is_top:
            marker = _newest(page, real)
            files = [*([replace(marker.info, key=prefix)] if marker else []), *files]
        names = {
            version.info.key[len(real) :]
            for version in page.versions
            if not version.deleted and version.info.key != real
        }
        names = {name for name in names if not name.startswith(PROBE)}
        names |= {common[len(real) : -1] for common in page.prefixes}
        prefixes = [f"{prefix}{name}/" for name in sorted(names)]
        following = json.dumps(page.markers) if page.markers else None
        return _behind(ListPage(files, prefixes, following, page.left_out), start_after)

    # ---- what is asked of the bucket -------------------------------------------------------------

    async def _page(self, prefix: str, token: str | None) -> VersionPage:
        asked, since = clock.monotonic(), self._changes
        if token is None:
            known = self._pages.get(prefix)
            if known is not None and asked - known[1] < self._keep:
                return known[0]
        key, version_id = json.loads(token) if token else ("", "")
        page = await self._bucket.list_versions(
            prefix, delimiter="/", markers=(key, version_id) if key else None
        )
        if self._changes == since:
            for name, found in certain(page, key).items():
                self._names[name] = found, asked
            if token is None and page.markers is None:
                self._pages[prefix] = page, asked
        return page

    async def _name(self, key: str) -> Name:
        """What there ever was of a key, and below it; asked once for all who want it now."""
        while True:
            asked, since = clock.monotonic(), self._changes
            known = self._names.get(key)
            if known is not None and asked - known[1] < self._keep:
                return known[0]
            asking = self._asking.get(key)
            if asking is None:
                break
            await asking.answered()
        shared = self._asking[key] = Shared()
        try:
            with shared.asked():
                name = await self._ask(key)
        finally:
            del self._asking[key]
        if self._changes == since:
            self._names[key] = name, asked
        return name

    async def _ask(self, key: str) -> Name:
        versions: list[ObjectVersion] = []
        markers, repeats = None, Repeats()
        while True:
            page = await self._bucket.list_versions(key, delimiter="/", markers=markers)
            versions += [v for v in page.versions if v.info.key == key]
            markers = page.markers
            if f"{key}/" in page.prefixes:
                return Name(versions, below=True)
            if markers is None or _is_behind(page, f"{key}/"):
                return Name(versions, below=False)
            if _is_behind(page, key):
                break
            check_repeats(repeats, key, page)
        rest = await self._bucket.list_versions(f"{key}/", delimiter="", limit=1)
        return Name(versions, below=bool(rest.versions))


def _newest(page: VersionPage, key: str) -> ObjectVersion | None:
    """The newest version of a key that a page shows, deletions apart."""
    return next((v for v in page.versions if v.info.key == key and not v.deleted), None)


def _is_behind(page: VersionPage, key: str) -> bool:
    """Whether a page has got past a key."""
    return any(v.info.key > key for v in page.versions) or any(p > key for p in page.prefixes)


def _behind(page: ListPage, start_after: str) -> ListPage:
    """What of a page lies behind a key."""
    if not start_after:
        return page

    objects = [info for info in page.objects if info.key > start_after]
    prefixes = [prefix for prefix in page.prefixes if prefix > start_after]
    return replace(page, objects=objects, prefixes=prefixes)
