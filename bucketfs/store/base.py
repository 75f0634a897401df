"""What bucketfs asks of an object store: the `Store` protocol and the values it trades in.

Every quirk of a provider ends behind this interface. All methods are coroutines under trio, may be
cancelled at any await, and raise `bucketfs.errors.StoreError` (or its subclasses) and nothing else.
Keys are complete object keys (a mounted prefix is added by the tree, not by the store), ETags are
opaque version tokens without their quotes, byte ranges are half open ``[start, stop)``.

Idempotence: `head`, `get`, `list`, `list_uploads`, `copy_part`, `upload_part`, unconditional `put`,
`copy`, `delete`, `delete_many` and `abort` may be repeated freely. `complete` and conditional `put`
and `copy` may find after a lost answer that their own first try went through; the implementation
finds that out with a HEAD before it reports `PreconditionFailed` or `NotFound`. A deletion that is
repeated finds nothing, which is no error, or, under a condition, what others have stored since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, Protocol
from urllib.parse import quote, urlencode

from bucketfs.errors import StoreError

#: Receives the bytes of a GET in order, chunk by chunk; must not block and must not keep the
#: chunk, whose memory is reused.
Sink = Callable[["bytes | memoryview"], None]

#: For deletions of any version.
NO_CONDITIONS: Final[Mapping[str, str]] = MappingProxyType({})

#: Name of the directory of old versions in each directory (``-o versions``), and what keys in it
#: begin with, as no path does (`bucketfs.store.layers.history`).
VERSIONS: Final = ".versions"
OLD: Final = f"/{VERSIONS}/"
#: What the names of our own short-lived objects begin with (`bucketfs.store.probe`).
PROBE: Final = ".bucketfs-probe-"
#: Name in the mounted directory below which lock objects are (`bucketfs.locks`); not shown there.
LOCKS: Final = ".bucketfs-locks"

#: Hears where the next page of a listing seems to begin.
OnToken = Callable[[str], Awaitable[None]]
#: What `Store.foresee` can tell; `PutObject` is all that makes an object of bytes.
Foreseen = Literal["PutObject", "DeleteObject"]


@dataclass(frozen=True, slots=True)
class Headers:
    """What an object carries beside its bytes.

    Attributes:
        metadata: User metadata without the ``x-amz-meta-`` prefix, names in lower case.
        content_type: MIME type; "" lets the store choose.
        other: Further system headers to keep across a copy, by their HTTP name in lower case:
            cache-control, content-disposition, content-encoding, content-language, expires.
        essential: Without its metadata the object would be something else (a symlink, a device).
        tag_count: How many tags the object has; None where it was not told: listings say nothing of
            them, and a change of tags makes no new version.
        keep_tags: An upload with these headers takes over the tags of the object it replaces, a
            copy those of its original; what is known to have none costs no request.
        tags: Tags to store with the object, as a query (``a=1&b=2``).
        partial: Only the metadata was told; the object may have any of the others.
    """

    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    other: Mapping[str, str] = field(default_factory=dict)
    essential: bool = field(default=False, compare=False)
    tag_count: int | None = field(default=None, compare=False)
    keep_tags: bool = field(default=False, compare=False)
    tags: str = field(default="", compare=False)
    partial: bool = field(default=False, compare=False)


def tag_query(tags: Mapping[str, str]) -> str:
    """Tags as `Headers.tags` has them; a space is ``%20``, as Ceph takes a ``+`` for itself."""
    return urlencode(tags, quote_via=quote)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One version of one object.

    Attributes:
        key: Complete key.
        size: Bytes.
        etag: Version token without quotes; never "". Where answers name no ETags it is made of what
            tells versions apart all the same, see `version_token`.
        last_modified: Unix time in whole seconds (LIST and HEAD differ below the second on Ceph).
        headers: None when the source was a listing, most of which carry no metadata.
        storage_class: "" for the standard class.
    """

    key: str
    size: int
    etag: str
    last_modified: int
    headers: Headers | None = None
    storage_class: str = ""


_MADE: Final = "size="
_MANIFEST: Final = "manifest="


def version_token(size: int, last_modified: int) -> str:
    """What stands for the ETag of a version where the endpoint names none."""
    return f"{_MADE}{size},modified={last_modified}"


def is_etag(token: str) -> bool:
    """Whether the endpoint knows a version by this: no condition can name one that was made up."""
    return not token.startswith((_MADE, _MANIFEST))


def manifest_token(etag: str) -> str:
    """What stands for the ETag of a large object of Swift, whose conditions mean another one."""
    return _MANIFEST + etag


def is_manifest(token: str) -> bool:
    """Whether the version is that of a large object, whose bytes are those of other objects.

    The store cannot make parts of it (`bucketfs.store.layers.large`).
    """
    return token.startswith(_MANIFEST)


@dataclass(frozen=True, slots=True)
class ListPage:
    """One answer of `Store.list`.

    Attributes:
        objects: In the order of their keys.
        prefixes: Common prefixes, when a delimiter was given.
        next_token: Where the next page begins, None after the last.
        left_out: How many entries are not among them that nobody could read, or that do not answer
            the question.
    """

    objects: Sequence[ObjectInfo]
    prefixes: Sequence[str]
    next_token: str | None
    left_out: int = 0

    @property
    def shows_nothing(self) -> bool:
        """Whether it is the whole answer, and nothing is in it."""
        return not (self.objects or self.prefixes or self.next_token or self.left_out)


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One state of an object that a versioned bucket keeps.

    Attributes:
        info: The object as it was; of a deletion only key and time say anything.
        version_id: "null" where the bucket kept no versions at that time.
        deleted: It is a delete marker: from then on there was no object.
        latest: It is what stands under the key now.
    """

    info: ObjectInfo
    version_id: str
    deleted: bool
    latest: bool


@dataclass(frozen=True, slots=True)
class VersionPage:
    """One page of the versions below a prefix.

    Attributes:
        versions: By key in byte order, the newest of each key first.
        prefixes: Common prefixes of any versions, when a delimiter was given.
        markers: Key and version id behind which the next page begins, None after the last.
        left_out: How many entries could not be read.
    """

    versions: Sequence[ObjectVersion]
    prefixes: Sequence[str]
    markers: tuple[str, str] | None
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """An unfinished multipart upload as `Store.list_uploads` reports it."""

    key: str
    upload_id: str
    initiated: int


class Body(Protocol):
    """Bytes to send: sized, and readable from the start as often as a retry needs it."""

    def __len__(self) -> int: ...

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The whole body from its start, in pieces of at most 1 MiB.

        A piece is valid until the next is asked for.
        """
        ...


@dataclass(frozen=True, slots=True)
class BytesBody:
    """A body held in memory."""

    data: bytes

    def __len__(self) -> int:
        return len(self.data)

    def chunks(self) -> Iterator[bytes | memoryview]:
        view = memoryview(self.data)
        for at in range(0, len(view), 1 << 20):
            yield view[at : at + (1 << 20)]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the endpoint can do; every False has a fallback in the store or in the layer that asks.

    What is not known of a condition that may be ignored counts as False: see `Store.settle`.

    Attributes:
        copy: CopyObject works (else: download and upload).
        copy_part: UploadPartCopy works and honours its range.
        multipart: Multipart uploads work.
        put_if_match / put_if_none_match: Conditional PutObject works.
        complete_if_match / complete_if_none_match: Conditional CompleteMultipartUpload works.
        copy_if_match: The copy-source-if-match condition is honoured.
        copy_condition: It may be sent, honoured or not.
        target_if_match / target_if_none_match: CopyObject honours conditions on what it replaces.
        delete_if_match / delete_many_if_match: DeleteObject honours If-Match, DeleteObjects the
            ETag of each key.
        get_if_match: GetObject takes If-Match (else the ETags of its answers are compared).
        etags: Answers name ETags (else a version is its size and Last-Modified, and nothing is
            sent that needs an ETag: conditions on versions, parts).
        checksums: Uploads may carry a CRC-32C or a Content-MD5.
        copied_sums: An upload that was begun with CRC-32C takes copied parts.
        delete_crc: DeleteObjects takes a CRC-32 (else a Content-MD5).
        descriptions: Content-Type, Cache-Control and the like may be sent.
        delete_many: DeleteObjects works.
        user_metadata: ``x-amz-meta-*`` is stored.
        tags: GetObjectTagging works.
        storage_class: The class that the mount names is one of the endpoint's; only `probe` does
            without it, to find out.
        markers: Keys that end in ``/`` are stored as they are.
        feed: There is a feed of changes (`Store.follow`); only an answer shows that there is none.
        equal_parts: All parts but the last must have one size (Cloudflare R2).
        min_part / max_part / max_put / max_copy / max_object: Limits in bytes.
        max_parts: How many parts an upload may have.
    """

    copy: bool = True
    copy_part: bool = True
    multipart: bool = True
    put_if_match: bool = True
    put_if_none_match: bool = True
    complete_if_match: bool = True
    complete_if_none_match: bool = True
    copy_if_match: bool = True
    copy_condition: bool = True
    target_if_match: bool = True
    target_if_none_match: bool = True
    delete_if_match: bool = True
    delete_many_if_match: bool = True
    get_if_match: bool = True
    etags: bool = True
    checksums: bool = True
    copied_sums: bool = True
    delete_crc: bool = True
    descriptions: bool = True
    delete_many: bool = True
    user_metadata: bool = True
    tags: bool = True
    storage_class: bool = True
    markers: bool = True
    feed: bool = True
    equal_parts: bool = False
    min_part: int = 5 << 20
    max_part: int = 5 << 30
    max_parts: int = 10_000
    max_put: int = 5 << 30
    max_copy: int = 5 << 30
    max_object: int = 10_000 * (5 << 30)


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened to an object.

    Attributes:
        keys: Its key; more than one where the feed does not say which of them it is.
        removed: It is gone, or its newest version is; else it was made, replaced or described anew.
        etag: Of the version that was made, "" where that is not told.
    """

    keys: tuple[str, ...]
    removed: bool = False
    etag: str = ""


#: Is told of changes in the order of the feed; of none at all when the feed shows that it is alive.
Hear = Callable[[Sequence[Change]], None]


def ignored(_: StoreError) -> None:
    """Of no interest to who asks."""


class Store(Protocol):
    """One bucket."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def head(self, key: str) -> ObjectInfo:
        """Metadata of an object. Raises NotFound."""
        ...

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        """Metadata of many objects, as many side by side as the endpoint bears; raises nothing.

        Each is asked for once at most. `head` finds out about those of which nothing was told.

        Args:
            keys: Of the objects.
            told: Is given each answer when it comes.
            failed: Is given each failure.
        """
        ...

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
        """Feed bytes ``[start, stop)`` (None: to the end) to `sink`; answers the object's info.

        A retry inside goes on where the last try broke off, so `sink` sees each byte once. Raises
        PreconditionFailed when `if_match` is given and is no longer the object's ETag, NotFound,
        and NoAnswer when the body ended early for good, or no answer was one to these bytes of an
        object of `size` bytes (None: of any number).
        """
        ...

    async def put(
        self,
        key: str,
        body: Body,
        headers: Headers,
        *,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        """Store an object of at most `max_put` bytes. ``if_none_match``: only if the key is free.

        ``last_modified`` of the answer is 0 where the store did not tell (S3 sends a Date header,
        no more).
        """
        ...

    async def copy(
        self,
        source: str,
        target: str,
        *,
        size: int,
        headers: Headers | None = None,
        source_if_match: str = "",
        target_if_match: str = "",
        target_if_none_match: bool = False,
    ) -> ObjectInfo:
        """Copy an object of `size` bytes inside the bucket; `headers` None keeps its own.

        Larger than `max_copy`: by parts. Without `copy` in the capabilities: by download and
        upload. ``target_if_match``: only over that version; ``target_if_none_match``: only if the
        target is free, else KeyTaken.
        """
        ...

    async def delete(self, key: str, *, if_match: str = "") -> None:
        """Remove an object; a missing one is no error.

        Raises PreconditionFailed when it is another version than `if_match`.
        """
        ...

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        """Remove any number of objects, a thousand a request.

        The answer names those that stayed and why: PreconditionFailed for one that is another
        version than `if_match` says of its key.
        """
        ...

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
        """One page of keys in byte order. ``delimiter=""`` lists the whole subtree.

        `on_token` is called, where the store can tell early, with what `next_token` of the page is
        going to be; a guess, which the page confirms (see `bucketfs.store.long_listing`).
        """
        ...

    async def create_upload(self, key: str, headers: Headers, *, copies: bool = False) -> str:
        """Begin a multipart upload and answer its id; `copies`: parts of it will be copied."""
        ...

    async def upload_part(self, key: str, upload_id: str, number: int, body: Body) -> str:
        """Send part `number` (from 1) and answer its ETag.

        Raises Unsupported where the endpoint names none: `capabilities` has learned that.
        """
        ...

    async def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        *,
        source: str,
        start: int,
        stop: int,
        source_if_match: str = "",
    ) -> str:
        """Make part `number` of bytes ``[start, stop)`` of `source` and answer its ETag.

        Raises Unsupported where it cannot be done in this upload: `capabilities` has learned that.
        """
        ...

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        size: int,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        """Publish the parts ``(number, etag)`` as one object of `size` bytes."""
        ...

    async def abort(self, key: str, upload_id: str) -> None:
        """Throw an upload away; an unknown one is no error."""
        ...

    async def list_uploads(self, prefix: str) -> Sequence[UploadInfo]:
        """All unfinished uploads under a prefix."""
        ...

    async def foresee(self, operation: Foreseen, key: str) -> None:
        """Raise the refusal that a request would get now, and change nothing.

        Asks the store only where one was refused in the same directory lately (for a key that ends
        in a slash: also anywhere below it), and answers else.
        """
        ...

    async def settle(self, *conditions: str) -> Capabilities:
        """Find out, if it is not known and may be, whether conditions are honoured.

        Args:
            conditions: Names of `Capabilities`. What cannot be found out counts as missing.
        """
        ...

    async def follow(self, prefix: str, hear: Hear) -> None:
        """Hear of all changes below a prefix that others make, until the feed ends.

        From the first call of `hear` on nothing is left out. Never returns.

        Raises:
            Unsupported: The endpoint has no feed.
            StoreError: It refuses this one; NoAnswer when it has ended, or was silent for too long.
        """
        ...

    async def check(self) -> bool:
        """Ask whether the bucket exists and can be used; raises what stands in the way.

        Returns:
            False if the answer shows that nothing is below the prefix; True also where it does not
            tell.
        """
        ...

    async def details(self, key: str) -> Mapping[str, str]:
        """What else the endpoint tells of an object, which no request needs; raises NotFound.

        By the names ``content_type``, ``cache_control``, ``version_id``, ``storage_class``,
        ``restore``, ``encryption`` and ``checksum_crc32c`` or another algorithm; what it does not
        tell is missing.
        """
        ...

    async def tags(self, key: str) -> Mapping[str, str]:
        """Tags of an object. Raises NotFound, and Unsupported where there are none at all."""
        ...

    async def set_tags(self, key: str, tags: Mapping[str, str]) -> None:
        """Replace all tags of an object. Raises as `tags` does."""
        ...

    async def presigned_url(self, key: str, seconds: int) -> str:
        """An address at which anybody can read the object for so long. Asks nobody."""
        ...

    async def versions(self, key: str) -> Sequence[ObjectVersion]:
        """All versions of an object that the bucket keeps, the newest first; none for no object.

        Raises Unsupported where the endpoint knows no versions.
        """
        ...

    async def restore_version(self, key: str, version_id: str) -> ObjectInfo:
        """Make an old version the newest again, with its metadata: a copy of at most `max_copy`.

        Raises NotFound: there is none of this id.
        """
        ...

    async def restore_archived(self, key: str, *, days: int, tier: str) -> None:
        """Have an archived object made readable for so many days.

        `tier` is Standard, Bulk or Expedited. Raises NotFound; StoreError with the code
        RestoreAlreadyInProgress, and InvalidObjectState for one that is not archived.
        """
        ...
