"""Options of ``rclone mount``, and what they are here: the one table of them.

A line of rclone's may be given as it is, behind ``--`` or in ``-o`` (as rclone's own mount helper
has it), with dashes or underscores. What has a meaning here is translated, what bucketfs does
anyway is accepted, what has no effect is named in the log, and what would do something other than
was asked for is refused with what to do instead. Names that are ours, too, and mean the same
(``uid``, ``umask`` …) stand here for their spelling with dashes.

Source: rclone of August 2026 (cmd/mountlib/mount.go, vfs/vfscommon/options.go, fs/config.go,
backend/s3/s3.go).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from bucketfs.cli.options.compat import NO_IAM, NO_KEYS, NO_PROXY
from bucketfs.options import BY_NAME
from bucketfs.units import parse_switch


class Kind(StrEnum):
    """What becomes of an option of rclone."""

    OURS = "stands for"
    ANYWAY = "is so anyway"
    IGNORED = "without effect"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Spelling:
    """One option of rclone.

    Attributes:
        name: Without the dashes in front.
        kind: See there.
        takes_value: Whether a value follows; else it is a switch, which may have ``=false``.
        text: Of `Kind.OURS` our option, with its value where rclone's is a switch; else the reason,
            or what to do instead.
        convert: From rclone's value to ours; raises ValueError with the reason.
    """

    name: str
    kind: Kind
    takes_value: bool
    text: str
    convert: Callable[[str], str] = str

    def is_off(self, value: str | None) -> bool:
        """Whether a switch is given as ``=false``. Raises ValueError."""
        return not self.takes_value and value is not None and not parse_switch(value)

    def ours(self, value: str | None) -> tuple[str, str | None] | None:
        """Our option and its value; None where it is not to be given. Raises ValueError."""
        name, _, fixed = self.text.partition("=")
        if self.takes_value:
            if not value:
                raise ValueError("needs a value")
            return name, self.convert(value)
        if not self.is_off(value):
            return name, fixed or None
        return (name, "0") if name in BY_NAME and not fixed else None


def _size(text: str) -> str:
    """Rclone counts a bare number in KiB."""
    return f"{text}Ki" if re.fullmatch(r"[\d.]+", text) else text


def _time(text: str) -> str:
    """Rclone's M is a month, and its y a year."""
    if "M" in text or "y" in text:
        raise ValueError("not a time here; the largest unit is w, a week")
    return text


def _address(text: str) -> str:
    return text if "://" in text else f"https://{text}"


def _level(text: str) -> str:
    return "warn" if text.upper() == "NOTICE" else text


def _encryption(text: str) -> str:
    if text not in ("AES256", "aws:kms"):
        raise ValueError("must be AES256 or aws:kms")
    return "1" if text == "AES256" else "kmsid"


def _ours(name: str, text: str, convert: Callable[[str], str] = str) -> Spelling:
    return Spelling(name, Kind.OURS, takes_value=True, text=text, convert=convert)


def _switch(name: str, text: str) -> Spelling:
    return Spelling(name, Kind.OURS, takes_value=False, text=text)


def _all(kind: Kind, text: str, names: str) -> list[Spelling]:
    """Several names, with one text; those that take a value end in an equals sign."""
    words = names.split()
    return [Spelling(word.rstrip("="), kind, word.endswith("="), text) for word in words]


_SELF: Final = "bucketfs decides this by itself"
_CACHED: Final = (
    "every file goes through the cache on disk, as with full; close() waits for the bucket unless"
    " -o writeback is given"
)

_TABLE: Final = (
    # the mount
    _switch("allow-other", "allow_other"),
    _switch("allow-root", "allow_root"),
    _switch("allow-non-empty", "nonempty"),
    _switch("default-permissions", "default_permissions"),
    _switch("read-only", "ro"),
    _ours("uid", "uid"),
    _ours("gid", "gid"),
    _ours("umask", "umask"),
    *_all(
        Kind.REFUSED, "write umask=, which is for files and directories", "dir-perms= file-perms="
    ),
    *_all(Kind.ANYWAY, "it returns when the bucket is mounted; -f stays in front", "daemon"),
    *_all(Kind.IGNORED, _SELF, "daemon-wait= daemon-timeout= async-read max-read-ahead="),
    *_all(Kind.IGNORED, _SELF, "write-back-cache direct-io noappledouble noapplexattr link-perms="),
    *_all(Kind.IGNORED, "the source shown is always the bucket", "devname= volname="),
    *_all(Kind.IGNORED, "use stat_cache_expire", "attr-timeout= poll-interval="),
    *_all(Kind.IGNORED, "use -d", "debug-fuse s3-sdk-log-mode= dump="),
    *_all(Kind.REFUSED, "write it as -o NAME[=VALUE]", "option= fuse-flag="),
    *_all(Kind.REFUSED, "not supported", "allow-idmap mount-case-insensitive vfs-case-insensitive"),
    # files and their cache
    _ours("dir-cache-time", "stat_cache_expire", _time),
    _switch("no-modtime", "metadata=list"),
    _switch("use-server-modtime", "metadata=list"),
    _ours("cache-dir", "use_cache"),
    _ours("temp-dir", "tmpdir"),
    _ours("vfs-cache-max-size", "cache_size", _size),
    _ours("vfs-cache-min-free-space", "ensure_diskfree", _size),
    _ours("vfs-disk-space-total-size", "bucket_size", _size),
    *_all(Kind.IGNORED, _CACHED, "vfs-cache-mode="),
    *_all(Kind.IGNORED, "with -o writeback uploads follow at once", "vfs-write-back="),
    *_all(
        Kind.IGNORED, "cache_size bounds the cache", "vfs-cache-max-age= vfs-cache-poll-interval="
    ),
    *_all(Kind.IGNORED, _SELF, "vfs-read-chunk-size= vfs-read-chunk-size-limit="),
    *_all(Kind.IGNORED, _SELF, "vfs-read-chunk-streams= vfs-read-ahead= buffer-size="),
    *_all(Kind.IGNORED, _SELF, "vfs-read-wait= vfs-write-wait= vfs-handle-caching= vfs-refresh"),
    *_all(Kind.IGNORED, "versions are told apart by ETag", "vfs-fast-fingerprint no-checksum"),
    *_all(Kind.IGNORED, "a file can be read at any place", "no-seek"),
    *_all(Kind.IGNORED, "use bucket_size", "vfs-used-is-size"),
    *_all(Kind.IGNORED, "links are kept as s3fs keeps them, not as .rclonelink", "links vfs-links"),
    # the network
    *_all(Kind.IGNORED, "use max_thread_count", "transfers= checkers= max-connections="),
    *_all(Kind.IGNORED, "use max_thread_count", "s3-upload-concurrency= multi-thread-streams="),
    _ours("contimeout", "connect_timeout", _time),
    _ours("timeout", "readwrite_timeout", _time),
    _ours("retries", "retries"),
    _ours("low-level-retries", "retries"),
    _switch("no-check-certificate", "no_check_certificate"),
    _ours("ca-cert", "ca_bundle"),
    *_all(Kind.REFUSED, "client certificates are not supported", "client-cert= client-key="),
    *_all(Kind.REFUSED, NO_PROXY, "http-proxy="),
    *_all(Kind.REFUSED, "the network's bandwidth is limited with tc(8)", "bwlimit= bwlimit-file="),
    *_all(Kind.REFUSED, "not supported; lower max_thread_count", "tpslimit= tpslimit-burst="),
    *_all(Kind.IGNORED, "requests carry the User-Agent of the AWS library", "user-agent="),
    *_all(Kind.IGNORED, _SELF, "fast-list use-mmap disable-http2 s3-disable-http2"),
    # the log, and the daemon
    _ours("log-file", "logfile"),
    _ours("log-level", "dbglevel", _level),
    _switch("v", "dbglevel=info"),
    _switch("vv", "dbglevel=dbg"),
    _switch("verbose", "dbglevel=info"),
    _switch("q", "dbglevel=err"),
    _switch("quiet", "dbglevel=err"),
    _switch("use-json-log", "log_format=json"),
    *_all(Kind.ANYWAY, "the log goes to syslog, unless logfile= is given", "syslog"),
    *_all(Kind.IGNORED, "use bucketfs status", "stats= progress"),
    *_all(Kind.REFUSED, "not supported; use bucketfs status --json", "rc rc-addr="),
    _ours("metrics-addr", "metrics"),
    *_all(
        Kind.REFUSED,
        "rclone's configuration is not read; write url=, region= and passwd_file=, or profile=",
        "config=",
    ),
    *_all(Kind.IGNORED, "a word of rclone's mount helper", "args2env command="),
    # S3
    *_all(Kind.REFUSED, NO_KEYS, "s3-access-key-id= s3-secret-access-key= s3-session-token="),
    *_all(
        Kind.REFUSED, NO_IAM, "s3-ibm-api-key= s3-ibm-resource-instance-id= s3-ibm-iam-endpoint="
    ),
    *_all(Kind.ANYWAY, "keys are looked for in the environment", "s3-env-auth"),
    *_all(Kind.ANYWAY, "the bucket is looked at, and never made", "s3-no-check-bucket"),
    *_all(Kind.IGNORED, "the kind of server is told by url= and its answers", "s3-provider="),
    _ours("s3-endpoint", "url", _address),
    _ours("s3-region", "region"),
    _ours("s3-profile", "profile"),
    _ours("s3-chunk-size", "multipart_size", _size),
    _ours("s3-storage-class", "storage_class"),
    _ours("s3-acl", "default_acl"),
    _ours("s3-server-side-encryption", "use_sse", _encryption),
    _switch("s3-force-path-style", "use_path_request_style"),
    _switch("s3-requester-pays", "requester_pays"),
    _switch("s3-v2-auth", "sigv2"),
    _switch("s3-use-unsigned-payload", "enable_unsigned_payload"),
    *_all(Kind.REFUSED, "write use_sse=kmsid:ID", "s3-sse-kms-key-id="),
    *_all(Kind.REFUSED, "write use_sse=custom:FILE", "s3-sse-customer-algorithm="),
    *_all(
        Kind.REFUSED, "write use_sse=custom:FILE", "s3-sse-customer-key= s3-sse-customer-key-md5="
    ),
    *_all(Kind.REFUSED, "write use_sse=custom:FILE", "s3-sse-customer-key-base64="),
    *_all(
        Kind.REFUSED,
        "set AWS_SHARED_CREDENTIALS_FILE in the environment",
        "s3-shared-credentials-file=",
    ),
    *_all(
        Kind.REFUSED,
        "name the role in a profile of ~/.aws/config, and that with profile=",
        "s3-role-arn= s3-role-session-name= s3-role-session-duration= s3-role-external-id=",
    ),
    *_all(
        Kind.REFUSED,
        "name that endpoint with url=",
        "s3-use-dual-stack s3-use-accelerate-endpoint s3-sts-endpoint=",
    ),
    _ours("s3-version-at", "at"),
    *_all(
        Kind.REFUSED,
        "give -o versions, and see the directory .versions in each directory",
        "s3-versions s3-version-deleted",
    ),
    *_all(Kind.REFUSED, "objects are shown as they are stored", "s3-decompress s3-might-gzip="),
    *_all(Kind.IGNORED, "it is for making buckets", "s3-location-constraint= s3-bucket-acl="),
    *_all(Kind.IGNORED, "checksum=off leaves out those of uploads", "s3-disable-checksum"),
    *_all(Kind.IGNORED, "directories always have markers", "s3-directory-markers"),
    *_all(Kind.IGNORED, "a page of a listing is always 1000 keys", "s3-list-chunk="),
    *_all(Kind.IGNORED, _SELF, "s3-upload-cutoff= s3-copy-cutoff= s3-max-upload-parts="),
    *_all(Kind.IGNORED, _SELF, "s3-list-version= s3-list-url-encode= s3-no-head s3-no-head-object"),
    *_all(Kind.IGNORED, _SELF, "s3-leave-parts-on-error s3-use-multipart-etag="),
    *_all(Kind.IGNORED, _SELF, "s3-no-system-metadata s3-use-already-exists= s3-use-x-id="),
    *_all(Kind.IGNORED, _SELF, "s3-use-multipart-uploads= s3-use-accept-encoding-gzip="),
    *_all(Kind.IGNORED, _SELF, "s3-sign-accept-encoding= s3-use-data-integrity-protections="),
    *_all(Kind.IGNORED, _SELF, "s3-memory-pool-flush-time= s3-memory-pool-use-mmap"),
)

#: By name, without the dashes in front.
SPELLINGS: Final[Mapping[str, Spelling]] = MappingProxyType({row.name: row for row in _TABLE})


def find(name: str) -> Spelling | None:
    """The option of rclone with this name; underscores count as dashes."""
    return SPELLINGS.get(name.replace("_", "-"))


def rows() -> list[tuple[str, str]]:
    """Every option as rclone writes it, and what it is here."""
    shown = []
    for row in _TABLE:
        dashes = "-" if len(row.name.strip("v")) < 2 and row.name[0] in "vq" else "--"
        label = f"{dashes}{row.name}{'=…' if row.takes_value else ''}"
        text = f"-o {row.text}" if row.kind is Kind.OURS else f"{row.kind}: {row.text}"
        shown.append((label, text))
    return shown
