"""What an endpoint can do: a table of known providers, corrected by what the endpoint answers.

The table says what was measured or documented for each kind of server; an endpoint not in it is
taken for a full S3 until it answers otherwise. Every ability that is missing has a fallback in
`bucketfs.store.layers.fallback`. The dangerous kind of server is the one that *ignores* a condition
and answers 200: a server not in the table is therefore not trusted with conditions on Complete and
on the source of a copy, and for a mount that writes `probe` tries those of PUT, of the target of a
copy and of deletions out on a key of its own.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import trio

from bucketfs.errors import PreconditionFailed, StoreError, Unsupported
from bucketfs.store.base import BytesBody, Capabilities, Headers, ObjectInfo, Store
from bucketfs.store.refusal import as_taken, is_refusal

if TYPE_CHECKING:
    from bucketfs.store.config import StoreConfig

_log = logging.getLogger("bucketfs.store.capability")

#: An ETag that no object has.
_WRONG: Final = "0" * 32
#: Seconds that the probe's key may take to delete when the mount is given up meanwhile.
_CLEAN_UP: Final = 10.0
_TIB: Final = 1 << 40
#: Conditions that Amazon has had since 2025 and hardly anybody else: off until `probe` was there.
_NEW_CONDITIONS: Final = {
    "target_if_match": False,
    "target_if_none_match": False,
    "delete_if_match": False,
    "delete_many_if_match": False,
}
#: Most stores stopped at Amazon's limit of before December 2025.
_FULL: Final = Capabilities(max_object=5 * _TIB, **_NEW_CONDITIONS)


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a kind of server.

    Attributes:
        name: For the log.
        hosts: Endings of endpoint host names.
        servers: Beginnings of the Server header, in lower case.
        capabilities: See there.
        list_v2: ListObjectsV2 works.
        checksum: ``x-amz-checksum-crc32c`` is compared with what arrives, of parts too.
        listing: How a listing is asked for what was stored with the objects: ``metadata=true`` in
            the query (MinIO), ``tigris`` by a header, ``ext-v1`` in place of version 2. The last
            two bring user metadata alone, and nothing for an object that has none.
    """

    name: str
    hosts: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    capabilities: Capabilities = _FULL
    list_v2: bool = True
    checksum: bool = False
    listing: str = "metadata"


_NO_CONDITIONS: Final = {
    "put_if_match": False,
    "put_if_none_match": False,
    "complete_if_match": False,
    "complete_if_none_match": False,
    "copy_if_match": False,
}

#: A HEAD before a Complete or a copy costs little; a condition that is ignored costs data.
_CAREFUL: Final = replace(
    _FULL, complete_if_match=False, complete_if_none_match=False, copy_if_match=False
)

UNKNOWN: Final = Profile("unknown S3 server", capabilities=_CAREFUL)
AWS: Final = Profile("Amazon S3", servers=("amazons3",), capabilities=Capabilities(), checksum=True)

#: Sources: measurements on Ceph 16.2 and moto 5.2; the providers' own documentation; rclone's
#: provider files (backend/s3/provider/*.yaml).
PROFILES: Final = (
    AWS,
    Profile(
        "Cloudflare R2",
        hosts=(".r2.cloudflarestorage.com",),
        capabilities=replace(_FULL, equal_parts=True),
        checksum=True,
    ),
    Profile(
        "Google Cloud Storage",
        hosts=("storage.googleapis.com",),
        servers=("uploadserver",),
        capabilities=replace(_FULL, copy_part=False, max_copy=5 * _TIB, **_NO_CONDITIONS),
    ),
    Profile(
        "IBM Cloud Object Storage",
        hosts=(".cloud-object-storage.appdomain.cloud", ".softlayer.net"),
        servers=("cleversafe",),
        capabilities=replace(_CAREFUL, max_object=10 * _TIB),
    ),
    Profile(
        "MinIO",
        servers=("minio",),
        capabilities=replace(_FULL, copied_sums=False),
        checksum=True,
    ),
    Profile(
        "Scaleway",
        hosts=(".scw.cloud",),
        capabilities=replace(_CAREFUL, max_parts=1000),
    ),
    Profile(
        "Storj",
        hosts=("gateway.storjshare.io",),
        capabilities=replace(_CAREFUL, copy_part=False, min_part=64 << 20),
    ),
    Profile(
        "Tigris",
        hosts=(".tigris.dev", ".storage.dev"),
        capabilities=_CAREFUL,
        listing="tigris",
    ),
    Profile(
        "Yandex Object Storage",
        hosts=(".yandexcloud.net",),
        capabilities=_CAREFUL,
        listing="ext-v1",
    ),
    Profile(
        "Pachyderm gateway",
        servers=("pachyderm",),
        capabilities=replace(
            _FULL, copy_part=False, user_metadata=False, markers=False, **_NO_CONDITIONS
        ),
        list_v2=False,
    ),
)


def profile_of(host: str, server: str) -> Profile:
    """The profile for an endpoint's host name and Server header, `UNKNOWN` if there is none."""
    server = server.lower()
    for profile in PROFILES:
        if host and host.endswith(profile.hosts):
            return profile
        if server and server.startswith(profile.servers):
            return profile
    return UNKNOWN


class Trial:
    """Whether a request has gone through without some abilities of the endpoint."""

    held = False

    def holds(self) -> None:
        self.held = True


class Provider:
    """The endpoint of one mount: its profile and what was learned since.

    Attributes:
        capabilities: What `Store.capabilities` says.
        list_v2: Whether to list with ListObjectsV2.
        listed_headers: Whether such a listing is asked for what was stored with the objects.
        listing: How, see `Profile`.
        probes: Whether `probe` has something to find out, still.
        classed: Whether new objects name a storage class.
        probes_writes: Whether it had, as the endpoint may ignore conditions.
        quoted: Whether If-Match takes the ETag with its quotes (RFC 9110; Ceph 16 does not).
        summed: Multipart uploads that were begun with CRC-32C.
    """

    def __init__(self, config: StoreConfig) -> None:
        self._host = config.host
        self._checksum = config.checksum
        self.probes = self.probes_writes = not (config.read_only or config.is_aws)
        self.classed = bool(config.storage_class)
        self._versioned: bool | None = None
        self._ignores_ranges = False
        self._met = config.is_aws
        self.listed_headers = not config.is_aws
        self._listed_headers_known = config.is_aws
        self._adopt(AWS if config.is_aws else profile_of(config.host, ""))
        self.quoted = True
        self.summed: set[str] = set()

    def _adopt(self, profile: Profile) -> None:
        self.name = profile.name
        self.capabilities = profile.capabilities
        self.list_v2 = profile.list_v2
        self.listing = profile.listing
        self._compares = profile.checksum

    @property
    def checksum(self) -> str:
        """What bodies carry beside their signature: ``crc32c``, ``md5`` or ""."""
        if self._checksum == "off" or not self.capabilities.checksums:
            return ""
        if self._checksum == "auto":
            return "crc32c" if self._compares else ""
        return self._checksum

    def quote(self, etag: str) -> str:
        """An ETag as the endpoint wants it in If-Match."""
        return f'"{etag}"' if self.quoted else etag

    def meet(self, headers: Mapping[str, Any]) -> None:
        """Look at the headers of the endpoint's first answer."""
        if self._met:
            return
        self._met = True
        if self.name == UNKNOWN.name:
            self._adopt(profile_of(self._host, headers.get("server", "")))

    @contextmanager
    def without(self, *abilities: str) -> Iterator[Trial]:
        """Do without abilities during the block, and for good if the trial holds."""
        lost = {name: False for name in abilities if getattr(self.capabilities, name)}
        self.capabilities = replace(self.capabilities, **lost)
        trial = Trial()
        try:
            yield trial
        finally:
            back = dict.fromkeys(lost, True)
            self.capabilities = replace(self.capabilities, **back)
            if trial.held:
                self.demote(**lost)

    def demote(self, **abilities: bool) -> None:
        """Give up abilities that turned out to be missing, and say so once each."""
        lost = {
            name: value
            for name, value in abilities.items()
            if getattr(self.capabilities, name) != value
        }
        if lost:
            self.capabilities = replace(self.capabilities, **lost)
            _log.info("%s lacks: %s", self.name, ", ".join(sorted(lost)))

    def found_able(self, **abilities: bool) -> None:
        """Note abilities that were tried out."""
        self.capabilities = replace(self.capabilities, **abilities)

    def miss_etags(self) -> None:
        """An answer named no ETag."""
        if self.capabilities.etags:
            self.capabilities = replace(self.capabilities, etags=False, multipart=False)
            _log.warning(
                "%s names no ETags, or a proxy takes them out: versions are told apart by size and"
                " time, uploads look before they replace, and files end at %d GiB",
                self.name, self.capabilities.max_put >> 30,
            )  # fmt: skip

    def miss_ranges(self) -> None:
        """A whole object was the answer to a request for a range."""
        if not self._ignores_ranges:
            self._ignores_ranges = True
            _log.warning(
                "%s ignores Range, or a proxy takes it out: each read brings a file from its start",
                self.name,
            )

    def versioned(self, version_id: str) -> None:
        """A PutObject was answered, naming this version; "" where the bucket keeps none.

        Ceph 16 honours no condition of PutObject any more once versioning has been switched on:
        it refuses all If-Match, and ignores If-None-Match.
        """
        before, self._versioned = self._versioned, bool(version_id)
        if before is False and version_id and self.probes_writes:
            _log.warning("versioning was switched on: a HEAD replaces conditions from now on")
            self.demote(put_if_match=False, put_if_none_match=False)

    def demote_list(self) -> None:
        if self.list_v2:
            self.list_v2 = False
            _log.info("%s knows ListObjects only, not ListObjectsV2", self.name)

    def listed(self, objects: Sequence[ObjectInfo], *, asked: bool) -> bool:
        """A listing shows these: the first that has any tells whether it brings headers.

        Answers whether an object of which it brings none has no metadata.
        """
        if not asked:
            return False
        told = any(info.headers is not None for info in objects)
        if self.listing != "metadata":
            self._listed_headers_known |= told or self.listing == "ext-v1"
            return self._listed_headers_known
        if objects and not self._listed_headers_known:
            self._listed_headers_known = True
            self.listed_headers = told
        return False

    @contextmanager
    def without_listed_headers(self) -> Iterator[Trial]:
        """Ask listings for no headers during the block, and for good if the trial holds."""
        trial = Trial()
        before, self.listed_headers = self.listed_headers, False
        try:
            yield trial
        finally:
            self._listed_headers_known |= trial.held
            self.listed_headers = before and not trial.held


async def probe(store: Store, provider: Provider, prefix: str) -> None:
    """Find out on a short-lived key which conditions work, and how If-Match is spelled.

    Six to ten small requests: the more conditions are honoured, the more. Where writing is not
    allowed, or no more after the first of them, what is not found out stays as it is, and nothing
    is raised, except for a storage class.

    Raises:
        StoreError: InvalidStorageClass: the endpoint takes no object of the class of this mount.
    """
    key = f"{prefix}.bucketfs-probe-{secrets.token_hex(8)}"
    try:
        if not provider.capabilities.put_if_none_match:
            return
        first = await as_taken(
            provider,
            lambda: store.put(key, BytesBody(b"1"), Headers(), if_none_match=True),
            "checksums",
        )
    except StoreError as exc:
        if exc.code == "InvalidStorageClass":
            raise
        if is_refusal(exc):
            if provider.classed:
                await _try_out_class(store, provider, key, exc)
            provider.demote(put_if_none_match=False, put_if_match=False)
        else:
            _log.debug("conditional writes were not probed: %s", exc)
        return
    whole = False
    try:
        await _try_out_puts(store, provider, key, first.etag)
        await _try_out_copies(store, provider, key)
        whole = True
    except StoreError as exc:
        _log.info("conditional writes were not probed to the end: %s", exc)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEAN_UP):
            await _clean_up(store, provider, key, learn=whole)


async def _try_out_class(store: Store, provider: Provider, key: str, refused: StoreError) -> None:
    """Put a refused object again without a storage class: Ceph does not say what it refuses."""
    with provider.without("storage_class"):
        try:
            await as_taken(
                provider, lambda: store.put(key, BytesBody(b"1"), Headers()), "checksums"
            )
        except StoreError:
            return
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLEAN_UP):
        await _clean_up(store, provider, key, learn=False)
    raise StoreError(
        "InvalidStorageClass", status=refused.status, operation=refused.operation, key=key
    )


async def _try_out_puts(store: Store, provider: Provider, key: str, etag: str) -> None:
    """Put the object with this ETag again, under conditions."""

    async def is_refused(*, if_match: str = "", if_none_match: bool = False) -> bool:
        put = store.put(
            key, BytesBody(b"1"), Headers(), if_match=if_match, if_none_match=if_none_match
        )
        try:
            return await _is_refused(put)
        except Unsupported:
            return False

    provider.demote(put_if_none_match=await is_refused(if_none_match=True))
    honoured = await is_refused(if_match=_WRONG)
    provider.demote(put_if_match=honoured)
    if honoured and await is_refused(if_match=etag):
        provider.quoted = False
        try:
            provider.demote(put_if_match=not await is_refused(if_match=etag))
        except StoreError:
            provider.quoted = True
            raise


async def _try_out_copies(store: Store, provider: Provider, key: str) -> None:
    """Copy the object onto itself, under conditions that are false."""

    def copy(*, if_match: str = "", if_none_match: bool = False) -> Awaitable[object]:
        return store.copy(
            key,
            key,
            size=1,
            headers=Headers(),
            target_if_match=if_match,
            target_if_none_match=if_none_match,
        )

    honoured = match = False
    try:
        honoured = await _is_refused(copy(if_none_match=True))
        # who does not know the one does not know the other
        match = honoured and await _is_refused(copy(if_match=_WRONG))
    except StoreError as exc:
        if not is_refusal(exc):  # not all copy an object onto itself
            raise
    provider.found_able(target_if_none_match=honoured, target_if_match=match)


async def _clean_up(store: Store, provider: Provider, key: str, *, learn: bool) -> None:
    """Delete the object; to `learn`, under conditions that are false, first of all."""
    try:
        if not (learn and await _is_gone(store, provider, key)):
            await store.delete(key)
    except StoreError as exc:
        # who may write and not delete may mount all the same
        _log.warning("the object of the probe for conditional writes stays in the bucket: %s", exc)


async def _is_gone(store: Store, provider: Provider, key: str) -> bool:
    """Whether deletions of another version took the object: the endpoint ignores conditions."""
    one = many = False
    stayed: Mapping[str, StoreError] = {}
    try:
        one = await _is_refused(store.delete(key, if_match=_WRONG))
        if one:
            stayed = await store.delete_many([key], if_match={key: _WRONG})
            many = isinstance(stayed.get(key), PreconditionFailed)
        return key not in stayed
    except StoreError as exc:
        if not is_refusal(exc):
            raise
        return False
    finally:
        provider.found_able(delete_if_match=one, delete_many_if_match=many)


async def _is_refused(sent: Awaitable[object]) -> bool:
    """Whether the endpoint answers 412 to a request, for its condition."""
    try:
        await sent
    except PreconditionFailed:
        return True
    return False
