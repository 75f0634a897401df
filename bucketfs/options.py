"""The one table of options: every ``-o`` name bucketfs understands, with its unit and its help.

A row is a field of `Options`. The command line parser, ``--help``, the man page and
``docs/options.md`` all read this table and nothing else, so an option is added by adding a field.
Names are s3fs's wherever s3fs has one. Options of s3fs without a meaning here, and the words that
mount(8) adds, stand in `bucketfs.cli.options.compat`.

Nothing here does I/O, except that names of users and groups are looked up, and nothing here knows
how a value is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from bucketfs import option_row as kind
from bucketfs.option_row import Address, Encryption, Group, Handover, Row, row
from bucketfs.units import (
    GIB,
    MIB,
    Commit,
    Moment,
    VersionOf,
    parse_count,
    parse_duration,
    parse_moment,
    parse_octal,
    parse_switch,
)

__all__ = [
    "ALL_BUCKETS",
    "BY_NAME",
    "HANDED_OVER",
    "IMMUTABLE",
    "TABLE",
    "Encryption",
    "Group",
    "Options",
    "Row",
]

_E, _C, _N, _O, _V, _K, _L = Group


#: What stands in place of a mount point where the mount is handed over (``fuse_fd``).
HANDED_OVER = "/dev/fuse"

#: What stands in place of a bucket's name for all of them.
ALL_BUCKETS = ":/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything one mount was asked to do. Sizes are bytes, times are seconds.

    Attributes:
        bucket: Name of the bucket, "" with `all_buckets`.
        prefix: Key prefix that is the mount's root: "" or ``a/b/``, never with a leading slash.
        mountpoint: Where to mount, as given; the command line makes it absolute.
        foreground: ``-f``.
        debug: ``-d``.
        nonempty: The caller says that mounting over a non-empty directory is meant.
        fuse_options: What libfuse is to see of the words of mount(8), escaped for it.
        notes: One line for the log on each option that was accepted without effect.
        spec: The first argument as given, which mount(8) looks for in /proc/mounts; "" if the
            bucket was named in another way.
        remarks: Lines for the log on what words were taken to mean.
    """

    bucket: str
    mountpoint: str
    prefix: str = ""
    foreground: bool = False
    debug: bool = False
    nonempty: bool = False
    fuse_options: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    spec: str = ""
    remarks: tuple[str, ...] = ()

    # fmt: off
    url: str | None = row(_E, None, kind.url,
        "Address of the endpoint.",
        metavar="URL", aliases=("host",), shown="AWS, or endpoint_url of ~/.aws/config")
    region: str | None = row(_E, None, kind.region,
        "Region the requests are signed for.",
        metavar="NAME", aliases=("endpoint",),
        shown="that in the endpoint's name, or in the AWS configuration, else us-east-1")
    use_path_request_style: bool | None = row(_E, None, parse_switch,
        "Put the bucket into the path of the URL instead of the host name; 0 puts it into the "
        "host name. Without this option: the path, except at Amazon.")
    sigv2: bool = row(_E, False, parse_switch,
        "Sign requests the old way, with Signature Version 2.")
    enable_unsigned_payload: bool = row(_E, False, parse_switch,
        "Do not sign the bytes of uploads over plain http either (over https they never are): "
        "half the CPU, but nothing notices bytes that change on the way.")
    checksum: str = row(_E, "auto", kind.choice("auto", "crc32c", "md5", "off"),
        "The checksum that uploads carry and the server compares. auto: CRC-32C at Amazon, "
        "Cloudflare and wherever the answer to the first upload names it; over plain http always "
        "the SHA-256 of the signature, too. md5: "
        "Content-MD5, which all servers know; it takes as much CPU as the rest of an upload.",
        metavar="auto|crc32c|md5|off")
    enable_content_md5: bool = row(_E, False, parse_switch, "The same as checksum=md5.")
    probe: bool = row(_E, True, parse_switch,
        "Before the first request that depends on it, find out on an object of its own whether the "
        "endpoint honours conditions, once in 30 days. 0: write no such object, and look by a HEAD "
        "before each request that has a condition.",
        metavar="0|1", shown="1")
    requester_pays: bool = row(_E, False, parse_switch,
        "Agree to pay for requests to a requester-pays bucket.")

    passwd_file: str | None = row(_C, None, kind.text,
        "File with ACCESS_KEY:SECRET_KEY or BUCKET:ACCESS_KEY:SECRET_KEY lines, mode 600; or "
        "JSON with accessKeyID, secretAccessKey and perhaps endpoint and bucket, or an IBM Cloud "
        "service credential.",
        metavar="FILE")
    profile: str | None = row(_C, None, kind.text,
        "Section of ~/.aws/config and ~/.aws/credentials.",
        metavar="NAME")
    public_bucket: bool = row(_C, False, parse_switch,
        "The bucket is public: do not sign requests.")
    iam_role: bool = row(_C, False, kind.role,
        "Take the keys from the machine or container (instance metadata, ECS, EKS), not from "
        "files. The name of a role may be given, and is not needed.",
        aliases=("ecs",))
    use_session_token: bool = row(_C, False, parse_switch,
        "Refuse keys from the environment if they have no session token.")

    retries: int = row(_N, 5, parse_count,
        "How often a failed request is repeated.",
        metavar="N", low=1, high=100)
    connect_timeout: float = row(_N, 10.0, parse_duration,
        "Seconds to wait for a connection.",
        metavar="TIME", low=0.1, high=3600, shown="10")
    readwrite_timeout: float = row(_N, 60.0, parse_duration,
        "Seconds without a byte after which a request has failed.",
        metavar="TIME", low=0.1, high=3600, shown="60")
    op_timeout: float = row(_N, 300.0, parse_duration,
        "Seconds after which a file operation that makes no progress fails.",
        metavar="TIME", low=1, high=86400, shown="300")
    max_thread_count: int = row(_N, 16, parse_count,
        "How many requests for data run at once; of those for attributes up to eight times as "
        "many, where the endpoint bears it.",
        metavar="N", aliases=("parallel_count", "parallel_upload", "multireq_max"), low=1, high=512)
    no_check_certificate: bool = row(_N, False, parse_switch,
        "Do not check the server's certificate at all.")
    ca_bundle: str | None = row(_N, None, kind.text,
        "File with the certificates (PEM) of the authorities to trust, in place of the system's.",
        metavar="FILE", shown="AWS_CA_BUNDLE, ca_bundle of ~/.aws/config, REQUESTS_CA_BUNDLE, "
        "CURL_CA_BUNDLE, else the system's")
    ssl_verify_hostname: bool = row(_N, True, parse_switch,
        "Check that the certificate is for this host; 0 turns off this check alone.",
        metavar="0|1", shown="1")

    storage_class: str | None = row(_O, None, kind.upper,
        "Storage class of new objects, such as STANDARD_IA; sent in capitals. One that Amazon does "
        "not have is refused. Others have classes of their own: a writable mount tries it out "
        "before it stands.",
        metavar="CLASS")
    default_acl: str | None = row(_O, None, kind.choice(*kind.CANNED_ACLS),
        "Canned ACL of new objects.",
        metavar="ACL")
    use_sse: Encryption | None = row(  # noqa: RUF009 - rows are fields
        _O, None, kind.encryption,
        "Server-side encryption: 1 (the server's keys), kmsid[:ID], or custom[:FILE] with your "
        "own keys (SSE-C).",
        metavar="1|kmsid[:ID]|custom[:FILE]")

    all_buckets: bool = row(_V, False, parse_switch,
        "Mount all buckets of the account, as directories of MOUNTPOINT, the only argument. The "
        "same as :/ in place of BUCKET.")
    read_only: bool = row(_V, False, parse_switch,
        "Mount read-only.",
        name="ro", aliases=("read_only",))
    at: Moment | VersionOf | Commit | None = row(  # noqa: RUF009 - rows are fields
        _V, None, parse_moment,
        "Show the bucket as it was at this moment (2026-01-31, 2026-01-31T12:00Z, or 2h ago), "
        "read-only. PATH@VERSION is the moment at which that version of a file was stored. The "
        "bucket must have kept versions since then. At Pachyderm's gateway: the id of a commit.",
        metavar="MOMENT")
    versions: bool = row(_V, False, parse_switch,
        "Show old versions in a directory .versions of each directory, which no listing shows: "
        ".versions/NAME/2026-01-31T12:00:00Z.ID is a file. The name .versions is taken by it.")
    uid: int | None = row(_V, None, kind.user,
        "Show this user (number or name) as the owner of everything.",
        metavar="USER", high=2**32 - 2)
    gid: int | None = row(_V, None, kind.group,
        "Show this group (number or name) as the group of everything.",
        metavar="GROUP", high=2**32 - 2)
    umask: int | None = row(_V, None, parse_octal,
        "Show every file and directory with mode 0777 without these bits (octal).",
        metavar="MASK")
    mp_umask: int | None = row(_V, None, parse_octal,
        "The same for the mount point alone (octal).",
        metavar="MASK")
    allow_other: bool = row(_V, False, parse_switch,
        "Let other users in. Unless root mounts, /etc/fuse.conf must have user_allow_other.")
    fuse_fd: Handover | None = row(  # noqa: RUF009 - rows are fields
        _V, None, kind.handover,
        "Serve a mount that somebody else has made, whose descriptor of /dev/fuse comes through "
        "this Unix socket; MOUNTPOINT is left out then. unix: connects to the socket, unix-listen: "
        "listens there.",
        metavar="unix:PATH|unix-listen:PATH")
    restart: bool = row(_V, False, parse_switch,
        "Keep a small process beside the daemon, which starts it again when it has died, or by "
        "bucketfs restart; the mount stands meanwhile. Where systemd runs bucketfs@NAME it does "
        "the same.")
    plain_fuse: bool = row(_V, False, parse_switch,
        "Let libfuse mount and agree with the kernel by itself. Names in one directory are then "
        "looked up one after the other, and each write asks for an extended attribute.")
    use_xattr: bool = row(_V, True, parse_switch,
        "Support extended attributes; use_xattr=0 makes small writes faster.",
        metavar="0|1", shown="1")
    enable_acl: bool = row(_V, False, parse_switch,
        "Keep POSIX access control lists (getfacl, setfacl), which the kernel enforces.")
    metadata: str = row(_V, "full", kind.choice("full", "lazy", "list"),
        "full: mode, owner and times come from each object's metadata. lazy: so it is, but where "
        "the first objects of a directory have none, the others are shown as they are listed, and "
        "asked for behind; what differs shows within seconds. list: only what a listing shows, "
        "without a request for each file.",
        metavar="full|lazy|list")
    conflict: str = row(_V, "keep", kind.choice("keep", "overwrite"),
        "What happens when others have changed a file since it was opened here. keep: their "
        "version keeps the name, ours is stored as NAME.conflict-HOST-TIME, and close fails with "
        "ESTALE. overwrite: ours replaces theirs.",
        metavar="keep|overwrite")
    exclusive_create: str = row(_V, "close", kind.choice("open", "close"),
        "When the store decides who creates a file with O_EXCL. close: when the file is uploaded. "
        "open: at once, for lock files that programs on several machines create; one more request "
        "for each file. With open, the store also decides who renames to a name that must be "
        "free.",
        metavar="open|close")
    compat_dir: bool = row(_V, False, parse_switch,
        "Look for name_$folder$ objects (Hadoop's directories) also when a name is looked up; "
        "listings always show them.")
    stat_cache_expire: float = row(_V, 60.0, parse_duration,
        "How long attributes of a name that was seen are trusted without asking, in seconds.",
        metavar="TIME", aliases=("stat_cache_interval_expire",), low=0, shown="60", live=True)
    open_ttl: float = row(_V, 1.0, parse_duration,
        "How old the knowledge of an object may be when a cached file is opened, a listing when a "
        "directory is read, and the knowledge that a name is free, in seconds: others' changes "
        "show after this time. 0 asks each time; for data that never changes see immutable.",
        metavar="TIME", low=0, shown="1", live=True)
    immutable: bool = row(_V, False, parse_switch,
        "The data never changes: sets stat_cache_expire and open_ttl to one day each, unless they "
        "are given, too. bucketfs refresh shows what is new sooner.")
    follow: bool = row(_V, False, parse_switch,
        "Have the server tell what others change (MinIO, RustFS): it shows within a second, and "
        "while the server tells, what is known is trusted for an hour. Servers that cannot: one "
        "line in the log, and the times above hold.")
    locks: str = row(_V, "local", kind.choice("local", "bucket"),
        "Where flock and fcntl locks are kept. local: by this machine, for its programs. bucket: "
        "in the bucket, for the programs of all mounts that have this option; the store must "
        "honour conditional uploads. Each lock and its end are then requests, a lock has the file "
        "looked at anew, and each request of the kernel takes more CPU.",
        metavar="local|bucket")
    lock_lease: float = row(_V, 15.0, parse_duration,
        "How long a lock in the bucket holds that its mount does not renew: so long others wait "
        "for a mount that has died, and so long a mount may be cut off without losing its locks.",
        metavar="TIME", low=2, high=3600, shown="15")
    bucket_size: int | None = row(_V, None, kind.size_in_bytes,
        "Size of the file system as df shows it (bare number: bytes).",
        metavar="SIZE", low=1)

    use_cache: str | None = row(_K, None, kind.text,
        "Directory of the block cache.",
        metavar="DIR", shown="$XDG_CACHE_HOME/bucketfs, for root /var/cache/bucketfs")
    tmpdir: str | None = row(_K, None, kind.text,
        "Directory of the block cache when use_cache is not given.",
        metavar="DIR")
    check_cache_dir_exist: bool = row(_K, False, parse_switch,
        "Fail if the directory of use_cache does not exist, instead of making it.")
    cache_size: int = row(_K, 10 * GIB, kind.megabytes,
        "Limit of the block cache (bare number: MB).",
        metavar="SIZE", low=64 * MIB, shown="10Gi", live=True)
    free_space_ratio: int = row(_K, 10, parse_count,
        "Percent of the cache's disk that stays free. Not together with ensure_diskfree.",
        metavar="PERCENT", high=100)
    ensure_diskfree: int | None = row(_K, None, kind.megabytes,
        "Space on the cache's disk that stays free (bare number: MB).",
        metavar="SIZE")
    writeback: bool = row(_K, False, parse_switch,
        "close() waits for the local disk only, and the upload follows. The file survives kill -9 "
        "and reboot, and unmounting waits for the upload. fsync() still waits for the bucket.")
    publish: str = row(_K, "close", kind.choice("close", "unmount"),
        "When files appear in the bucket. close: each when it is closed. unmount: when the mount "
        "ends, which waits for it, or at bucketfs flush; until then they are on the local disk, as "
        "with writeback, and fsync() is content with that. If the cache cannot hold all, some "
        "appear earlier.",
        metavar="close|unmount")
    multipart_size: int | None = row(_K, None, kind.megabytes,
        "Part size of multipart uploads (bare number: MB). A file then has at most 10,000 parts "
        "of this size.",
        metavar="SIZE", aliases=("chunk_size",), low=5 * MIB, high=5 * GIB,
        shown="grows with the file")
    nomultipart: bool = row(_K, False, parse_switch,
        "Upload each file by one request, so that its ETag is its MD5 sum, which clients of Swift "
        "compare. A file ends at 5 GiB then.")

    logfile: str | None = row(_L, None, kind.text,
        "Log to this file, not to syslog or (with -f) standard error. SIGHUP reopens it.",
        metavar="FILE")
    dbglevel: str = row(_L, "warning", kind.level,
        "Lowest severity that is logged: crit, err, warn, info or dbg (-d is dbg).",
        metavar="LEVEL", shown="warn; with -f info", live=True)
    log_format: str = row(_L, "plain", kind.choice("plain", "json"),
        "plain: lines of text. json: one object a line.",
        metavar="plain|json")
    no_time_stamp_msg: bool = row(_L, False, parse_switch,
        "Do not put the time in front of plain log lines.")
    instance_name: str | None = row(_L, None, kind.text,
        "Name of this mount in the log.",
        metavar="NAME")
    metrics: Address | None = row(  # noqa: RUF009 - rows are fields
        _L, None, kind.address,
        "Serve figures for Prometheus at http://ADDR:PORT/metrics, and /healthz. Without ADDR to "
        "this machine alone: all of its users may ask.",
        metavar="[ADDR:]PORT")
    # fmt: on

    @property
    def source(self) -> str:
        """What is mounted: ``BUCKET`` or ``BUCKET:/PREFIX``, or ``:/`` for all buckets."""
        if self.all_buckets:
            return ALL_BUCKETS
        return f"{self.bucket}:/{self.prefix.rstrip('/')}" if self.prefix else self.bucket


#: What ``immutable`` stands for, where these options are not given.
IMMUTABLE: Mapping[str, float] = MappingProxyType(
    {"stat_cache_expire": 86400.0, "open_ttl": 86400.0}
)


def _table() -> tuple[Row, ...]:
    rows = []
    for entry in fields(Options):
        if "parse" not in entry.metadata:
            continue
        settings = dict(entry.metadata)
        settings["name"] = settings["name"] or entry.name
        rows.append(Row(attribute=entry.name, default=entry.default, **settings))
    return tuple(rows)


#: The table in the order of the help text.
TABLE: tuple[Row, ...] = _table()

#: Every spelling of every row.
BY_NAME: Mapping[str, Row] = MappingProxyType(
    {name: row for row in TABLE for name in (row.name, *row.aliases)}
)
