"""What an endpoint can do: a table of providers by their hosts, corrected by what is answered.

The table says what was measured or documented of each provider. An endpoint not in it is taken for
a full S3 until it answers otherwise, whatever it says of itself: a Server header is a name, not an
ability, and proxies change it. Every ability that is missing has a fallback in
`bucketfs.store.layers.fallback`.

Most abilities show by themselves: a request is refused, or its answer lacks something. `CONDITIONS`
do not, as the dangerous kind of server *ignores* one and answers 200. They are unknown at first and
count as missing; `bucketfs.store.probe` finds out about them where that is allowed, before the
first request that depends on it. What was learned is kept for the next mount (`known`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

from bucketfs.store.base import Capabilities, ObjectInfo
from bucketfs.store.config import StoreConfig
from bucketfs.store.known import Known

_log = logging.getLogger("bucketfs.store.capability")

_TIB: Final = 1 << 40
#: What a server may ignore without a word, by the requests that carry it.
PUTS: Final = frozenset({"put_if_match", "put_if_none_match"})
TARGETS: Final = frozenset({"target_if_match", "target_if_none_match"})
DELETIONS: Final = frozenset({"delete_if_match", "delete_many_if_match"})
CONDITIONS: Final = PUTS | TARGETS | DELETIONS
#: Most stores stopped at Amazon's limit of before December 2025.
_FULL: Final = Capabilities(max_object=5 * _TIB)
#: What is remembered for the next mount. Not `etags`: the first answer says it again, and a single
#: bad one must not cost weeks of multipart uploads.
_REMEMBERED: Final = CONDITIONS | {
    "checksums", "copied_sums", "copy", "copy_condition", "copy_part", "delete_crc", "delete_many",
    "descriptions", "feed", "get_if_match", "markers", "multipart", "tags", "user_metadata",
}  # fmt: skip

#: What the request of this task goes without, while it is tried out (`Provider.without`).
_GONE: ContextVar[frozenset[str]] = ContextVar("gone without", default=frozenset())
_QUOTES: Final = "quotes"


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a kind of server.

    Attributes:
        name: For the log.
        hosts: Endings of endpoint host names.
        capabilities: See there; those of `unknown` do not count.
        unknown: What has to be found out.
        checksum: ``x-amz-checksum-crc32c`` is compared with what arrives, of parts too; None: the
            answer to the first upload that carries one tells.
        listing: How a listing is asked for what was stored with the objects: ``metadata=true`` in
            the query (MinIO), ``tigris`` by a header, ``ext-v1`` in place of version 2. The last
            two bring user metadata alone, and nothing for an object that has none.
    """

    name: str
    hosts: tuple[str, ...] = ()
    capabilities: Capabilities = _FULL
    unknown: frozenset[str] = CONDITIONS
    checksum: bool | None = None
    listing: str = "metadata"


_NO_CONDITIONS: Final = dict.fromkeys(
    CONDITIONS | {"complete_if_match", "complete_if_none_match", "copy_if_match"}, False
)

#: A HEAD before a Complete or a copy costs little; a condition that is ignored costs data.
_CAREFUL: Final = replace(
    _FULL, complete_if_match=False, complete_if_none_match=False, copy_if_match=False
)

UNKNOWN: Final = Profile("unknown S3 server", capabilities=_CAREFUL)
AWS: Final = Profile("Amazon S3", capabilities=Capabilities(), unknown=frozenset(), checksum=True)

#: Sources: the providers' own documentation; rclone's provider files (backend/s3/provider/*.yaml).
PROFILES: Final = (
    Profile(
        "Cloudflare R2",
        hosts=(".r2.cloudflarestorage.com",),
        capabilities=replace(_FULL, equal_parts=True),
        checksum=True,
    ),
    Profile(
        "Google Cloud Storage",
        hosts=("storage.googleapis.com",),
        capabilities=replace(_FULL, copy_part=False, max_copy=5 * _TIB, **_NO_CONDITIONS),
        unknown=frozenset(),
        checksum=False,
    ),
    Profile(
        "IBM Cloud Object Storage",
        hosts=(".cloud-object-storage.appdomain.cloud", ".softlayer.net"),
        capabilities=replace(_CAREFUL, max_object=10 * _TIB),
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
)


def profile_of(host: str) -> Profile:
    """The profile for an endpoint's host name, `UNKNOWN` if there is none."""
    return next((p for p in PROFILES if host and host.endswith(p.hosts)), UNKNOWN)


class Trial:
    """Whether a request has gone through without some abilities of the endpoint."""

    held = False

    def holds(self) -> None:
        self.held = True


class Provider:
    """The endpoint of one mount: its profile and what was learned since.

    What a task tries to do without counts for that task alone: others may have seen that a
    condition is to be sent, and rely on it.

    Attributes:
        name: For the log.
        unknown: `CONDITIONS` that may be found out, and have not been.
        unsure: Those that cannot be: they are sent, and not relied on.
        list_v2: Whether to list with ListObjectsV2.
        listed_headers: Whether such a listing is asked for what was stored with the objects.
        untried_class: The storage class of new objects, while nobody knows whether there is one of
            this name; "" for none.
        listing: How, see `Profile`.
        summed: Multipart uploads that were begun with CRC-32C.
    """

    def __init__(self, config: StoreConfig) -> None:
        profile = AWS if config.is_aws else profile_of(config.host)
        self.name = profile.name
        self._able = replace(profile.capabilities, **dict.fromkeys(profile.unknown, False))
        self.list_v2 = True
        self.listed_headers = not config.is_aws
        self._listed_headers_known = config.is_aws
        self.listing = profile.listing
        self._quoted = True
        self.summed: set[str] = set()
        self.unknown = set(profile.unknown) if config.probe else set[str]()
        self.unsure = set(profile.unknown) - self.unknown
        self._unseen = set() if config.is_aws else {"markers", "user_metadata"}
        self._checksum = config.checksum
        self._compares = profile.checksum
        self._ignores_conditions = not config.is_aws
        self._ignores_ranges = False
        self._versioned: bool | None = None
        writes = config.probe and not (config.read_only or config.is_aws)
        self.untried_class = config.storage_class if writes else ""
        self._known = Known(config.known, f"{config.url or 'Amazon S3'} {config.bucket}")
        self._recall(self._known.load())

    def _recall(self, known: dict[str, bool]) -> None:
        """Begin with what an earlier mount has learned."""
        able = {name: value for name, value in known.items() if name in _REMEMBERED}
        self._able = replace(self._able, **able)
        self.unknown -= able.keys()
        self.unsure -= able.keys()
        self._unseen -= able.keys()
        if not known.get("list_v2", self.list_v2):
            self._is_old()
        self.listed_headers = known.get("listed_headers", self.listed_headers)
        self._listed_headers_known |= "listed_headers" in known
        self._quoted = known.get("quoted", self._quoted)
        self._versioned = known.get("versioned")
        self._compares = known.get("compares", self._compares)
        if known.get(_class_name(self.untried_class)):
            self.untried_class = ""

    @property
    def capabilities(self) -> Capabilities:
        """What `Store.capabilities` says."""
        gone = _GONE.get()
        return replace(self._able, **dict.fromkeys(gone - {_QUOTES}, False)) if gone else self._able

    @capabilities.setter
    def capabilities(self, able: Capabilities) -> None:
        self._able = able

    @property
    def quoted(self) -> bool:
        """Whether If-Match takes the ETag with its quotes (RFC 9110; Ceph 16 does not)."""
        return self._quoted and _QUOTES not in _GONE.get()

    def has_class(self) -> None:
        """The endpoint has stored an object of the class that new ones are to have."""
        self._known.note({_class_name(self.untried_class): True})
        self.untried_class = ""

    @property
    def checksum(self) -> str:
        """What bodies carry beside their signature: ``crc32c``, ``md5`` or ""."""
        if self._checksum == "off" or not self.capabilities.checksums:
            return ""
        if self._checksum == "auto":
            return "" if self._compares is False else "crc32c"
        return self._checksum

    @property
    def sums_parts(self) -> bool:
        """Whether multipart uploads begin with CRC-32C."""
        return self.checksum == "crc32c" and (self._checksum != "auto" or self._compares is True)

    def compares(self, named: bool) -> None:
        """An upload that carried a CRC-32C was answered: who knows it names it in the answer."""
        if self._compares is None:
            self._compares = named
            self._known.note({"compares": named})

    def quote(self, etag: str) -> str:
        """An ETag as the endpoint wants it in If-Match."""
        return f'"{etag}"' if self.quoted else etag

    def sends(self, ability: str) -> bool:
        """Whether a request is to carry what needs an ability."""
        return bool(getattr(self.capabilities, ability)) or self._is_sent_unsure(ability)

    def _is_sent_unsure(self, ability: str) -> bool:
        return ability in self.unsure and ability not in _GONE.get()

    def carries(self, condition: str) -> bool:
        """Whether a request has this condition in it: it counts, or is being found out about.

        PUTs also carry the one of which nobody knows.
        """
        able = bool(getattr(self.capabilities, condition)) or condition in self.unknown
        return able or (condition in PUTS and self._is_sent_unsure(condition))

    @contextmanager
    def without(self, *abilities: str) -> Iterator[Trial]:
        """Do without abilities during the block, and for good if the trial holds."""
        with _gone_without(abilities) as trial:
            yield trial
        if trial.held:
            self.learn(**dict.fromkeys(abilities, False))

    @contextmanager
    def unquoted(self) -> Iterator[Trial]:
        """Send ETags without quotes during the block, and for good if the trial holds."""
        with _gone_without([_QUOTES]) as trial:
            yield trial
        if trial.held:
            self._quoted = False
            self._known.note({"quoted": False})

    def learn(self, *, remember: bool = True, **abilities: bool) -> None:
        """Note what was answered: for the rest of this mount, and, to `remember`, for the next."""
        fresh = {
            name: able
            for name, able in abilities.items()
            if name in self.unknown | self.unsure | self._unseen
            or getattr(self._able, name) != able
        }
        if not fresh:
            return
        self._able = replace(self._able, **fresh)
        self.unknown -= fresh.keys()
        self.unsure -= fresh.keys()
        self._unseen -= fresh.keys()
        if missing := sorted(name for name, able in fresh.items() if not able):
            _log.info("%s lacks: %s", self.name, ", ".join(missing))
        if remember:
            self._known.note({name: able for name, able in fresh.items() if name in _REMEMBERED})

    def is_unseen(self, ability: str) -> bool:
        """Whether nobody has looked yet if what is stored like this is kept; it counts as kept."""
        return ability in self._unseen

    def confirm(self, ability: str) -> None:
        """What is stored like this was seen in the bucket."""
        if ability in self._unseen:
            self.learn(**{ability: True})

    def give_up_on(self, conditions: set[str]) -> None:
        """These cannot be found out: they count as missing as long as this mount lives."""
        self.unsure |= conditions & self.unknown
        self.unknown -= conditions

    def miss_etags(self) -> None:
        """An answer named no ETag."""
        if self._able.etags:
            self._able = replace(self._able, etags=False, multipart=False)
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
        if before is self._versioned or not self._ignores_conditions:
            return
        self._known.note({"versioned": self._versioned})
        if before is False and version_id:
            _log.warning("versioning was switched on: a HEAD replaces conditions from now on")
            self.learn(put_if_match=False, put_if_none_match=False)

    def demote_list(self) -> None:
        """The endpoint takes no ListObjectsV2."""
        if self.list_v2:
            self._is_old()
            _log.info("%s knows ListObjects only, not ListObjectsV2", self.name)
            self._known.note({"list_v2": False})

    def _is_old(self) -> None:
        """Who does not know ListObjectsV2, of 2016, honours no conditions of 2024.

        They are sent all the same, and not relied on; trying them out would store objects.
        """
        self.list_v2 = False
        self.give_up_on(self.unknown)

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
            self._note_listed_headers(told)
        return False

    def _note_listed_headers(self, brought: bool) -> None:
        self._listed_headers_known, self.listed_headers = True, brought
        self._known.note({"listed_headers": brought})

    @contextmanager
    def without_listed_headers(self) -> Iterator[Trial]:
        """Ask listings for no headers during the block, and for good if the trial holds."""
        trial = Trial()
        before, self.listed_headers = self.listed_headers, False
        try:
            yield trial
        finally:
            self.listed_headers = before
            if trial.held:
                self._note_listed_headers(False)


@contextmanager
def _gone_without(names: Iterable[str]) -> Iterator[Trial]:
    """Have this task, and those it starts meanwhile, do without during the block."""
    token = _GONE.set(_GONE.get().union(names))
    try:
        yield Trial()
    finally:
        _GONE.reset(token)


def _class_name(storage_class: str) -> str:
    """What a storage class is called among the abilities that are remembered."""
    return f"storage_class {storage_class}"
