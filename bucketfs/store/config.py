"""Everything `open_store` must know, and the rules that follow from it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from bucketfs.credentials import Credentials

#: Requests the server may work on for minutes without sending a byte.
SLOW: Final = frozenset({"CopyObject", "UploadPartCopy", "CompleteMultipartUpload"})
#: Host endings of Amazon's own S3, in all partitions.
_AWS_HOSTS: Final = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")


@dataclass(frozen=True, slots=True)
class Encryption:
    """Server-side encryption of new objects.

    Attributes:
        algorithm: ``AES256`` (SSE-S3), ``aws:kms``, ``aws:kms:dsse``, or "" for the bucket's own.
        kms_key_id: Key for the KMS kinds, "" for the account's default key.
        customer_key: 32 raw bytes for SSE-C, sent with each request; empty for none.
    """

    algorithm: str = ""
    kms_key_id: str = ""
    customer_key: bytes = b""

    def __repr__(self) -> str:
        kind = "SSE-C" if self.customer_key else self.algorithm or "bucket default"
        return f"Encryption({kind})"


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """One bucket at one endpoint.

    Attributes:
        bucket: Bucket name.
        url: Endpoint with its scheme; None for Amazon's, or what botocore's configuration names.
        region: None: that of the endpoint's name (`region_in`), or of botocore's configuration.
        credentials: What signs the requests.
        path_style: ``/bucket/key`` in place of ``bucket.host/key``; None: except at Amazon.
        signature_v2: Sign the old way.
        connect_timeout: Seconds to reach the endpoint, TLS included.
        read_timeout: Seconds without a byte moving after which a request counts as
            lost; five times as long for those the server works on in silence (copies, complete).
        retries: Attempts after the first.
        max_connections: Bulk transfers at once; small requests have as many again for themselves.
        storage_class: For new objects, "" for the bucket's default.
        acl: Canned ACL for new objects, "" for none.
        encryption: See `Encryption`.
        unsigned_payload: Over plain http, leave bodies out of the signature: half the CPU of an
            upload, but nothing then notices bytes that were changed on the way.
        checksum: What bodies carry beside their signature: ``auto`` (``crc32c`` where the server is
            known to compare it), ``crc32c``, ``md5`` or ``off``.
        requester_pays: Say with each request that we pay.
        verify: False: trust any certificate; a path: trust these certificates (file or directory).
        verify_hostname: False: the certificate may be for another name.
        read_only: The mount never writes.
        single_puts: No file is uploaded in parts.
        prefix: What a mount shows of the bucket, "" or ending in a slash.
        probe: Find out on a short-lived object which conditions the endpoint honours, before the
            first request that depends on one; else those that are not known are not relied on.
        probe_prefix: What the key of that object begins with.
        known: The file in which it is kept what was learned of the endpoint; None for none.
        reload_credentials: Asked after the server refused the credentials; the answer is used
            when it differs. None says that there are no usable ones now.
        at: Show the bucket as it was at this Unix time, or when a version of an object was stored
            (key and id); None: as it is.
        history: Old versions are shown, and a listing of them holds for so many seconds; None: they
            are not.
        patience: Seconds without progress after which a call fails, all its attempts together.
        follow: `Store.follow` is going to be called.
        named: Failures name the bucket: the mount has several.
        on_gone: Told that the endpoint has no such bucket any more; answers whether that is so.
    """

    bucket: str
    credentials: Credentials
    url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    signature_v2: bool = False
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    retries: int = 5
    max_connections: int = 16
    storage_class: str = ""
    acl: str = ""
    encryption: Encryption = Encryption()
    unsigned_payload: bool = False
    checksum: str = "auto"
    requester_pays: bool = False
    verify: bool | str = True
    verify_hostname: bool = True
    read_only: bool = False
    single_puts: bool = False
    prefix: str = ""
    probe: bool = True
    probe_prefix: str = ""
    known: Path | None = None
    reload_credentials: Callable[[], Credentials | None] | None = None
    at: float | tuple[str, str] | None = None
    history: float | None = None
    patience: float = 300.0
    follow: bool = False
    named: bool = False
    on_gone: Callable[[], bool] | None = None

    @property
    def silence(self) -> float:
        """`read_timeout`, or less: a lost request must leave time to be sent once more."""
        return min(self.read_timeout, self.patience / 2)

    @property
    def reach(self) -> float:
        """`connect_timeout`, or less, for the same reason."""
        return min(self.connect_timeout, self.patience / 2)

    @property
    def host(self) -> str:
        """Host name of the endpoint in lower case, "" for Amazon's default."""
        return (urlsplit(self.url).hostname or "").lower() if self.url else ""

    @property
    def is_aws(self) -> bool:
        """Whether the endpoint is Amazon's own, as far as `url` tells."""
        return not self.url or self.host.endswith(_AWS_HOSTS)

    @property
    def is_tls(self) -> bool:
        return not self.url or urlsplit(self.url).scheme == "https"
