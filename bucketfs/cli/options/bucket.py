"""`Options` → `StoreConfig`, and what the user is told when the bucket does not answer."""

from __future__ import annotations

import base64
import binascii
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import trio

from bucketfs.cache.places import cache_root, endpoint_file, name_of
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.beginning import Beginning
from bucketfs.credentials import Anonymous, Credentials, StaticKeys
from bucketfs.errors import FsError, MountRefused, NoAnswer, NotFound, StoreError, advice
from bucketfs.option_row import STORAGE_CLASSES
from bucketfs.option_row import url as parse_url
from bucketfs.options import Options
from bucketfs.store.config import Encryption, StoreConfig
from bucketfs.units import Commit, Moment, VersionOf

log = logging.getLogger("bucketfs.mount")

#: What a web server that knows no S3 answers; an S3 server names a code of its own in the body.
_ANYBODYS = frozenset({400, 404, 405, 501})
#: How OpenSSL calls an answer that is not TLS.
_NO_TLS = "WRONG_VERSION_NUMBER"
#: Bytes of an SSE-C key: AES-256.
_SSE_C_KEY = 32


def store_config(
    options: Options, credentials: Credentials, reload: Callable[[], Credentials | None]
) -> StoreConfig:
    """What the store must know of the command line. Reads the SSE-C key file; raises Failure."""
    config = StoreConfig(
        bucket=options.bucket,
        credentials=credentials,
        url=options.url,
        region=options.region,
        path_style=options.use_path_request_style,
        signature_v2=options.sigv2,
        connect_timeout=options.connect_timeout,
        read_timeout=options.readwrite_timeout,
        retries=options.retries,
        max_connections=options.max_thread_count,
        storage_class=options.storage_class or "",
        acl=options.default_acl or "",
        encryption=_encryption(options, os.environ),
        unsigned_payload=options.enable_unsigned_payload,
        checksum="md5" if options.enable_content_md5 else options.checksum,
        requester_pays=options.requester_pays,
        verify=not options.no_check_certificate and (options.ca_bundle or True),
        verify_hostname=options.ssl_verify_hostname,
        read_only=options.read_only,
        single_puts=options.nomultipart,
        prefix=options.prefix,
        probe=options.probe,
        probe_prefix=options.prefix,
        known=_known(options),
        reload_credentials=reload,
        at=_moment(options, Beginning.of(os.environ).moment.timestamp()),
        history=min(options.stat_cache_expire, options.open_ttl) if options.versions else None,
        patience=options.op_timeout,
        follow=options.follow,
    )
    if config.is_aws and config.storage_class not in ("", *STORAGE_CLASSES):
        known = ", ".join(STORAGE_CLASSES)
        raise Failure(
            ExitCode.USAGE,
            f"storage_class={config.storage_class}: Amazon has {known}; others take url=",
        )
    return config


def _moment(options: Options, began: float) -> float | tuple[str, str] | None:
    if isinstance(options.at, VersionOf):
        return options.prefix + options.at.path, options.at.version_id
    if not isinstance(options.at, Moment):
        return None
    at = options.at.since_1970(began)
    if at > began:
        raise Failure(ExitCode.USAGE, "at: the moment lies in the future")
    return at


def names_at(options: Options) -> Sequence[str]:
    """Names that the bucket may have at the time it is shown at, the likeliest first.

    Pachyderm's gateway has a commit as a bucket: ``COMMIT.BRANCH.REPO`` in version 2, and
    ``COMMIT.REPO`` in version 1 (github.com/pachyderm/pachyderm, ``src/server/pfs/s3``).
    """
    if not isinstance(options.at, Commit):
        return [options.bucket]
    repository = options.bucket.partition(".")[2] or options.bucket
    return [
        f"{options.at.commit_id}.{name}" for name in dict.fromkeys((options.bucket, repository))
    ]


def no_commit(names: Sequence[str]) -> Failure:
    """The line for a commit that the endpoint does not show as a bucket."""
    return Failure(
        ExitCode.BUCKET,
        f"at: there is no bucket {' or '.join(names)}, as Pachyderm's gateway has commits; for a"
        " version of one file write at=PATH@VERSION",
    )


def told_at(options: Options, config: StoreConfig) -> str:
    """What is shown, in words: a moment, version or commit; "" for what is there now."""
    match options.at:
        case None:
            return ""
        case Commit():
            return f"commit {options.at.commit_id}"
        case VersionOf():
            return f"version {options.at.version_id} of {options.at.path}"
    assert isinstance(config.at, float), "a moment is one"
    return datetime.fromtimestamp(config.at, UTC).isoformat(timespec="seconds")


def _known(options: Options) -> Path:
    """Where it is kept what was learned of the endpoint."""
    style = {None: "", True: "|path", False: "|host"}[options.use_path_request_style]
    name = name_of(options.url, options.bucket) + style
    return endpoint_file(cache_root(options.use_cache), name)


def with_endpoint(options: Options, environ: Mapping[str, str]) -> Options:
    """The options with the address that the AWS configuration names, where `url` is left out.

    Raises:
        Failure: What stands there is no address, or cannot be read.
    """
    if options.url:
        return options
    # The AWS library takes long to load, and most command lines name an address.
    from bucketfs.store.aws.endpoint import configured_url  # noqa: PLC0415

    try:
        found = configured_url(options.profile, environ)
    except StoreError as error:
        raise Failure(ExitCode.USAGE, error.message) from None
    if found is None:
        return options
    text, where = found
    try:
        return replace(options, url=parse_url(text))
    except ValueError as error:
        raise Failure(ExitCode.USAGE, f"{where}: {text!r} {error}") from None


def _encryption(options: Options, environ: Mapping[str, str]) -> Encryption:
    asked = options.use_sse
    if asked is None:
        return Encryption()
    if asked.mode == "s3":
        return Encryption(algorithm="AES256")
    if asked.mode == "kms":
        key = asked.source or environ.get("AWSSSEKMSID", "")
        return Encryption(algorithm="aws:kms", kms_key_id=key)
    if asked.source:
        return Encryption(customer_key=_key_from_file(os.path.expanduser(asked.source)))
    first = environ.get("AWSSSECKEYS", "").split(":", 1)[0]
    if not first:
        raise Failure(ExitCode.CREDENTIALS, "use_sse=custom: name a FILE or set AWSSSECKEYS")
    return Encryption(customer_key=decode_sse_c(first, where="AWSSSECKEYS"))


def _key_from_file(path: str) -> bytes:
    try:
        mode = os.stat(path).st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Failure(
                ExitCode.CREDENTIALS,
                f"use_sse=custom: {path} is open to others; run: chmod 600 {path}",
            )
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise Failure(ExitCode.CREDENTIALS, f"use_sse=custom: {path}: {error.strerror}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise Failure(ExitCode.CREDENTIALS, f"use_sse=custom: {path} holds no key")
    return decode_sse_c(keys[0], where=path)


def decode_sse_c(text: str, *, where: str) -> bytes:
    """An SSE-C key as s3fs reads it: 32 bytes in base64, else 32 plain letters."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    raw = text.encode(errors="surrogateescape")
    for key in (decoded, raw):
        if len(key) == _SSE_C_KEY:
            return key
    raise Failure(
        ExitCode.CREDENTIALS,
        f"use_sse=custom: the key in {where} must be 32 bytes, or 32 bytes in base64",
    )


def tell_keys(credentials: Credentials, about: str = "") -> None:
    """Say in the log which keys are used, behind the words `about`."""
    if isinstance(credentials, StaticKeys):
        key, source = credentials.access_key, credentials.source
        log.info("%ssigning with access key %s from %s", about, key, source)
    elif isinstance(credentials, Anonymous) and credentials.source:
        log.info("%ssigning nothing: %s has no keys for it", about, credentials.source)


def failure_of(error: BaseException, options: Options) -> Failure:
    """The line for whatever stopped the mount before it stood."""
    match error:
        case Failure():
            return error
        case StoreError():
            return _store_failure(error, options)
        case FsError():
            code = ExitCode.FUSE if isinstance(error, MountRefused) else ExitCode.FAILED
            return Failure(code, error.why or str(error))
        case trio.TooSlowError():
            return Failure(ExitCode.NETWORK, f"{_endpoint(options)}: no answer in time; check url=")
        case KeyboardInterrupt():
            return Failure(ExitCode.FAILED, "interrupted; nothing is mounted")
        case _:
            return Failure(
                ExitCode.FAILED, f"cannot mount {options.source}: {type(error).__name__}: {error}"
            )


def _store_failure(error: StoreError, options: Options) -> Failure:
    about = f"bucket {options.bucket}" if options.bucket else "all buckets"
    if error.code.isdecimal() and error.status in _ANYBODYS:
        return Failure(
            ExitCode.NETWORK,
            f"{_endpoint(options)}: answers HTTP {error.status}, but not as an S3 server does;"
            " check host, port, and http or https in -o url=",
        )
    if isinstance(error, NotFound) and options.bucket:
        where = f"{options.bucket} does not exist at {_endpoint(options)}"
        return Failure(ExitCode.BUCKET, f"bucket {where}; check its name, and url=")
    hint = advice(error)
    if isinstance(error, NoAnswer) and _NO_TLS in error.message:
        code, what = ExitCode.NETWORK, f"{_endpoint(options)}: answers without TLS"
        hint = "write http:// in -o url=, or name the port of https"
    elif isinstance(error, NoAnswer):
        code, what = ExitCode.NETWORK, f"{_endpoint(options)}: {error.message or error.code}"
        if error.code == "ConnectionClosed" and _endpoint(options).startswith("http://"):
            hint += "; if it speaks https, write https:// in -o url="
    elif error.code == "NoCredentials":
        code, what = ExitCode.CREDENTIALS, "no credentials were found"
        hint = "write ACCESS_KEY:SECRET_KEY into a file with mode 600, and -o passwd_file=FILE"
    elif error.code == "InvalidStorageClass":
        code = ExitCode.USAGE
        what = f"storage_class={options.storage_class}: {_endpoint(options)}: {_words(error)}"
    elif error.code == "CredentialsFailed":
        code, what = ExitCode.CREDENTIALS, _words(error)
    elif error.status in (401, 403):
        code, what = ExitCode.DENIED, f"{about}: {_words(error)}"
    else:
        code, what = ExitCode.BUCKET, f"{about}: {_words(error)}"
    return Failure(code, f"{what}; {hint}" if hint else what)


def _words(error: StoreError) -> str:
    status = f" (HTTP {error.status})" if error.status and str(error.status) != error.code else ""
    message = f": {error.message}" if error.message else ""
    return " ".join(f"{error.code}{status}{message}".split())


def _endpoint(options: Options) -> str:
    return options.url or "Amazon S3"
