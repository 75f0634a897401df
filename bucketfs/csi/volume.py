"""What a request wants mounted, as bucketfs's own words; pure, and where requests are refused.

``volumeAttributes`` of a volume are ``bucket``, ``prefix`` and options of a mount, as are the flags
of its ``mountOptions``. Names with a slash in them are the orchestrator's. Whoever may write a pod
may write such options, so those that name files or ports of the mounter's are the administrator's
alone (``bucketfs-csi node -o``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from grpc import StatusCode

from bucketfs.cli.options import arguments
from bucketfs.csi.proto import csi_pb2 as csi
from bucketfs.csi.refused import Refused, invalid
from bucketfs.csi.volume_keys import VolumeKeys, of_secrets
from bucketfs.options import BY_NAME, TABLE, Options

_BUCKET, _PREFIX = "bucket", "prefix"

#: Options that the driver gives, or that reach for what is the mounter's.
_OURS: Final = frozenset(
    {
        *("passwd_file", "profile", "use_session_token", "use_cache", "tmpdir"),
        *("check_cache_dir_exist", "logfile", "log_format", "instance_name", "metrics"),
        *("fuse_fd", "all_buckets", "ca_bundle"),
    }
)
#: How an endpoint is reached: not told when a volume is deleted, hence not a volume's.
_ENDPOINT: Final = frozenset(
    {
        *("url", "region", "use_path_request_style", "sigv2", "no_check_certificate"),
        *("ssl_verify_hostname", "public_bucket", "iam_role", "requester_pays"),
    }
)
#: Keys that need no secret.
_OTHER_KEYS: Final = frozenset({"public_bucket", "iam_role"})

_MODE = csi.VolumeCapability.AccessMode
_READERS = frozenset({_MODE.SINGLE_NODE_READER_ONLY, _MODE.MULTI_NODE_READER_ONLY})

#: What group-writable files and directories are without; with `_GROUP_UMASK` a volume's group
#: (fsGroup) reads and writes all.
_GROUP_UMASK = "0002"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mount as a request asks for it.

    Attributes:
        spec: The bucket and the prefix, as bucketfs has them on its command line.
        words: Options, as they stand behind ``-o``.
        options: The same, checked.
        keys: Text of the file of keys, "" if there is none.
        single_writer: Nobody else on this node may have the volume.
        fingerprint: The same for requests that ask for the same. Secrets and what the administrator
            has set may change under a mount.
    """

    volume: str
    target: str
    spec: str
    words: tuple[str, ...]
    options: Options
    keys: str = field(repr=False)
    single_writer: bool
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the administrator has set for all volumes of a node.

    Attributes:
        words: Options behind ``-o``.
        own_keys: Volumes without a secret may use the keys of the mounter (``iam_role``).
    """

    words: tuple[str, ...] = ()
    own_keys: bool = False


def wanted(request: csi.NodePublishVolumeRequest, defaults: Defaults) -> Wanted:
    """What NodePublishVolume asks for. Raises Refused."""
    required(request, "volume_id", "target_path")
    check_capability(request.volume_capability)
    attributes = own_attributes(request.volume_context)
    named = attributes.pop(_BUCKET, "")
    prefix = attributes.pop(_PREFIX, "")
    keys = of_secrets(request.secrets, named)
    words = [*option_words(sorted(attributes.items())), *_flags(request.volume_capability.mount)]
    check_words(words)
    spec = _spec(named or keys.bucket, prefix if named else f"{keys.prefix}/{prefix}")
    mode = request.volume_capability.access_mode.mode
    group = request.volume_capability.mount.volume_mount_group
    last = ["ro"] if request.readonly or mode in _READERS else []
    own = (*words, *_group(group, [*defaults.words, *words]), *last, "allow_other")
    all_words = (*defaults.words, *keys.words, *own)
    options = parsed(spec, all_words)
    _check_keys(keys, options, defaults)
    return Wanted(
        volume=request.volume_id,
        target=request.target_path,
        spec=spec,
        words=all_words,
        options=options,
        keys=keys.text,
        single_writer=mode == _MODE.SINGLE_NODE_SINGLE_WRITER,
        fingerprint=_digest(request.volume_id, spec, group, str(mode), *words, *last),
    )


def _digest(*parts: str) -> str:
    # stays as it is: the driver of another version made the mounts that this one finds
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def required(request: object, *names: str) -> None:
    """Each of these fields has a value. Raises Refused."""
    for name in names:
        if not getattr(request, name):
            raise invalid(f"{name} is missing in the request")


def check_capability(capability: csi.VolumeCapability) -> None:
    """A volume can be had in this way. Raises Refused."""
    if capability.WhichOneof("access_type") is None or not capability.HasField("access_mode"):
        raise invalid("volume_capability is missing in the request")
    if reason := unable(capability):
        raise invalid(reason)


def unable(capability: csi.VolumeCapability) -> str:
    """Why a volume cannot be had in this way; "" if it can."""
    if capability.HasField("block"):
        return "a bucket is a file system, no block device: set volumeMode: Filesystem"
    if capability.access_mode.mode == _MODE.UNKNOWN:
        return "the access mode is unknown"
    return ""


def own_attributes(context: Mapping[str, str]) -> dict[str, str]:
    """Attributes of a volume without those that the orchestrator adds."""
    return {name: value for name, value in context.items() if "/" not in name}


def option_words(attributes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Attributes as words of ``-o``. Raises Refused."""
    for name, value in attributes:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise invalid(f"{name}: not the name of an option")
        row = BY_NAME.get(name)
        if value == "" and (row is None or row.is_switch):
            yield name
        else:
            yield f"{name}={value}"


def _flags(mount: csi.VolumeCapability.MountVolume) -> Iterator[str]:
    """``mountOptions``, each with one option or several."""
    for flag in mount.mount_flags:
        try:
            yield from (word.strip() for word in arguments.split_list(flag) if word.strip())
        except arguments.ParseError as error:
            raise invalid(str(error)) from None


def check_words(words: Sequence[str], *, dynamic: bool = False) -> None:
    """Nobody but the administrator gives options that are theirs alone. Raises Refused.

    What the words come to is looked at: each option has several spellings.

    Args:
        words: As a volume has them.
        dynamic: The volume is being made, and must be deleted with less knowledge.
    """
    options = parsed("bucket:/", words)
    changed = {row.name for row in TABLE if getattr(options, row.attribute) != row.default}
    if theirs := sorted(changed & _OURS):
        raise invalid(f"{theirs[0]}: cannot be set for a volume, only by the driver")
    if options.use_sse is not None and options.use_sse.source:
        raise invalid("use_sse: names of key files and keys can be set by the driver only")
    if dynamic and (endpoints := sorted(changed & _ENDPOINT)):
        raise invalid(
            f"{endpoints[0]}: cannot be a parameter of a StorageClass, since a volume is deleted"
            " without them; write the endpoint into the secret, or into the driver's options"
        )


def _spec(bucket: str, prefix: str) -> str:
    if not bucket:
        raise invalid('no bucket: volumeAttributes need "bucket", or the secret does')
    name, colon, rest = bucket.partition(":")
    if colon:
        prefix = f"{rest}/{prefix}"
    if "{" in prefix or "}" in prefix:
        raise invalid(f"{prefix}: a volume's prefix has no placeholders")
    # with a colon it is no name of a data set
    return f"{name}:/{'/'.join(part for part in prefix.split('/') if part)}"


def _group(group: str, words: Sequence[str]) -> Iterator[str]:
    """Options that let a group of the pod's (fsGroup) read and write."""
    names = {word.partition("=")[0] for word in words}
    if group and "gid" not in names:
        yield f"gid={group}"
        if "umask" not in names:
            yield f"umask={_GROUP_UMASK}"


def parsed(spec: str, words: Sequence[str]) -> Options:
    """The options that bucketfs makes of these words. Raises Refused."""
    try:
        return arguments.parse([spec, "/", "-f", "-o", joined(words)])
    except arguments.ParseError as error:
        raise invalid(str(error)) from None


def joined(words: Iterable[str]) -> str:
    """Words as one list behind ``-o``."""
    return ",".join(re.sub(r'([\\,"])', r"\\\1", word) for word in words)


def _check_keys(keys: VolumeKeys, options: Options, defaults: Defaults) -> None:
    if options.iam_role and not defaults.own_keys:
        raise invalid("iam_role: the driver was not started with --own-keys")
    if not keys.text and not (options.public_bucket or options.iam_role):
        raise invalid(
            "the volume has no keys: name a secret (nodePublishSecretRef), or set public_bucket"
        )


#: Words of mount(8) that the kernel knows, and their numbers (linux/mount.h).
_KERNEL_FLAGS: Mapping[str, int] = MappingProxyType(
    {"nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128, "noatime": 1024}
)
_READ_ONLY = 1
#: A container of one volume has neither devices nor programs of other users in it.
_ALWAYS = _KERNEL_FLAGS["nosuid"] | _KERNEL_FLAGS["nodev"]


def kernel_words(options: Options) -> tuple[int, tuple[str, ...]]:
    """Flags and data of mount(2) for the options that are the kernel's. Raises Refused."""
    flags = _ALWAYS | (_READ_ONLY if options.read_only else 0)
    data = []
    for word in options.fuse_options:
        if word in _KERNEL_FLAGS:
            flags |= _KERNEL_FLAGS[word]
        elif "context=" in word:
            data.append(word)
        elif word != "default_permissions":
            raise invalid(f"{word}: cannot be set for a volume")
    return flags, tuple(data)


# ---- volumes that the driver makes ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Made:
    """Where a volume of the driver's is.

    Attributes:
        bucket: Its bucket.
        path: Its directory there, without slashes at the ends.
    """

    bucket: str
    path: str

    @property
    def volume_id(self) -> str:
        return f"{self.bucket}/{self.path}"

    @property
    def prefix(self) -> str:
        """What its objects' keys begin with."""
        return f"{self.path}/"

    @property
    def mark(self) -> str:
        """Key of the object that says that the driver has made it, beside it, not in it."""
        above, _, name = self.path.rpartition("/")
        return f"{above}/{_MARKS}/{name}" if above else f"{_MARKS}/{name}"


_MARKS = ".bucketfs-csi"
#: The directory of a volume in a bucket of its own.
_DATA = "data"
#: The spec's limit for an id, in bytes.
_LONGEST_ID = 128
#: Longer names are cut and get a hash.
_LONGEST_NAME = 63


def made(volume_id: str) -> Made | None:
    """Where the volume of this id is, None if it is no id of the driver's."""
    bucket, slash, path = volume_id.partition("/")
    named = re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,62}", bucket)
    parts = path.split("/")
    if not slash or not named or "" in parts or {".", "..", _MARKS} & set(parts):
        return None
    return Made(bucket, path)


def to_make(name: str, bucket: str, prefix: str) -> Made:
    """Where a volume of this name is to be: below a prefix, or in a bucket of its own.

    Raises:
        Refused: The place cannot be.
    """
    safe = _safe(name)
    if not bucket:
        return Made(safe, _DATA)
    spec = _spec(bucket, prefix)
    found, below = parsed(spec, ()).bucket, spec.partition(":/")[2]
    place = Made(found, f"{below}/{safe}" if below else safe)
    if len(place.volume_id.encode()) > _LONGEST_ID or made(place.volume_id) is None:
        raise invalid(f"bucket={bucket} prefix={prefix}: too long, or no names for a volume")
    return place


def _safe(name: str) -> str:
    """A name that a bucket may have, different for different names."""
    plain = re.sub(r"[^a-z0-9-]", "-", name.lower()).strip("-")
    if plain == name and 3 <= len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:20]
    return f"{plain[: _LONGEST_NAME - 21] or 'v'}-{digest}"


def no_such_volume(volume_id: str) -> Refused:
    """The line for a volume that is not there."""
    return Refused(StatusCode.NOT_FOUND, f"{volume_id}: there is no such volume")
