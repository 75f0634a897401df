"""Which keys a mount signs with: the first source that has some; a named one that fails is fatal.

Order: ``passwd_file=``, the environment, a file named by ``AWS_CREDENTIAL_FILE``, the AWS
configuration (profiles with keys, SSO, roles, processes, web identity, containers),
``~/.passwd-s3fs``, ``/etc/passwd-s3fs``, and at last the instance metadata. The metadata service
stands behind the password files because a file was written by someone for this purpose, while a
machine's role is just there, and because asking where there is none costs a time-out.

Nothing here talks to the network: everything that is the AWS library's business is answered with
`Chain`. Secrets do not show in the representation of any value here and in no message.
"""

from __future__ import annotations

import configparser
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from bucketfs import key_json
from bucketfs.key_json import KeyFile
from bucketfs.options import Options
from bucketfs.passwd import (
    ETC_PASSWD,
    PasswdError,
    buckets_named,
    has_default,
    parse_passwd,
    permission_fault,
)


class CredentialsError(Exception):
    """No usable keys; one line that says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class StaticKeys:
    """Keys that somebody wrote down.

    Attributes:
        source: Where they were found, for the log.
        is_ibm: They are IBM Cloud's; Amazon does not know them.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    source: str = ""
    is_ibm: bool = False


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Sign nothing.

    Attributes:
        source: A password file that has no keys for this, be they empty, or of single buckets
            only; "" where an option says so.
    """

    source: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """Leave it to the AWS library's own chain, which also renews what expires."""

    profile: str | None = None


Credentials = StaticKeys | Anonymous | Chain

#: Any of these in the environment means that the AWS library knows what to do.
_CHAIN_ENVIRONMENT = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)

#: A profile with one of these can yield keys.
_PROFILE_SOURCES = (
    "aws_access_key_id",
    "role_arn",
    "credential_process",
    "sso_session",
    "sso_start_url",
    "web_identity_token_file",
    "login_session",
)


def resolve(options: Options, environ: Mapping[str, str]) -> Credentials:
    """Find the credentials for `options.bucket`. Reads files. Raises CredentialsError."""
    if options.public_bucket:
        return Anonymous()
    if options.passwd_file:
        return read_passwd_file(os.path.expanduser(options.passwd_file), options.bucket)
    if options.iam_role:
        return Chain(options.profile)
    homes = home_directories(environ)
    if options.profile:
        _require_profile(options.profile, homes, environ)
        return Chain(options.profile)
    keys = keys_from_environment(environ, need_token=options.use_session_token)
    if keys is not None:
        return keys
    if named := environ.get("AWS_CREDENTIAL_FILE"):
        return read_passwd_file(named, options.bucket)
    if any(environ.get(name) for name in _CHAIN_ENVIRONMENT):
        return Chain()
    if _can_yield_keys(_profiles(homes, environ).get("default", {})):
        return Chain()
    for path in (*(os.path.join(home, ".passwd-s3fs") for home in homes), ETC_PASSWD):
        if os.path.exists(path):
            return read_passwd_file(path, options.bucket)
    return Chain()


def keys_from_environment(environ: Mapping[str, str], *, need_token: bool) -> StaticKeys | None:
    """Keys in the AWS variables or in s3fs's older ones. Half a pair raises CredentialsError."""
    access = environ.get("AWS_ACCESS_KEY_ID") or environ.get("AWSACCESSKEYID")
    secret = environ.get("AWS_SECRET_ACCESS_KEY") or environ.get("AWSSECRETACCESSKEY")
    token = environ.get("AWS_SESSION_TOKEN") or environ.get("AWSSESSIONTOKEN")
    if not access and not secret:
        return None
    if not access or not secret:
        missing = "AWS_ACCESS_KEY_ID" if not access else "AWS_SECRET_ACCESS_KEY"
        raise CredentialsError(
            "both environment variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            f" must be set together; {missing} is not set"
        )
    if need_token and not token:
        raise CredentialsError("use_session_token is given and AWS_SESSION_TOKEN is not set")
    return StaticKeys(access, secret, token, source="environment")


def read_passwd_file(path: str, bucket: str) -> StaticKeys | Anonymous:
    """The keys for `bucket` from a file of s3fs's format, or of JSON.

    "" for the keys that list all buckets: where there are none, but some for single buckets,
    nothing is signed. Raises CredentialsError.
    """
    text = _text_of(path)
    try:
        if key_json.is_json(text):
            return _keys_of(key_json.parse(text), path)
        if not bucket and not has_default(text) and buckets_named(text):
            return Anonymous(path)
        pair = parse_passwd(text, bucket)
    except PasswdError as error:
        raise CredentialsError(f"{path}: {error}") from None
    if not pair.access_key:
        return Anonymous(source=path)
    return StaticKeys(pair.access_key, pair.secret_key, source=path)


def buckets_with_keys(credentials: Credentials) -> list[str]:
    """The buckets that have keys of their own where the mount's come from.

    Reads that file. Raises CredentialsError.
    """
    if isinstance(credentials, Chain) or not credentials.source.startswith("/"):
        return []
    text = _text_of(credentials.source)
    try:
        return [] if key_json.is_json(text) else buckets_named(text)
    except PasswdError as error:
        raise CredentialsError(f"{credentials.source}: {error}") from None


def _keys_of(file: KeyFile, path: str) -> StaticKeys | Anonymous:
    if not file.access_key:
        return Anonymous()
    return StaticKeys(
        file.access_key, file.secret_key, file.token or None, source=path, is_ibm=file.is_ibm
    )


def read_key_file(path: str) -> KeyFile | None:
    """What a file of JSON says beside its keys; None: it is no JSON. Raises CredentialsError."""
    text = _text_of(path)
    try:
        return key_json.parse(text) if key_json.is_json(text) else None
    except PasswdError as error:
        raise CredentialsError(f"{path}: {error}") from None


def _text_of(path: str) -> str:
    fd = _open(path)
    try:
        return _checked_text(fd, path)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    """Before anything is asked about the file: its name may be another's a moment later."""
    try:
        # without O_NONBLOCK a pipe would wait for its other end
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CredentialsError(
            f"unexpected error from stat({path}): {error.strerror}; check passwd_file="
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _checked_text(fd: int, path: str) -> str:
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        raise CredentialsError(f"credentials file {path} is not a regular file")
    if fault := permission_fault(path, mode):
        raise CredentialsError(f"{fault}; run: chmod 600 {path}")
    try:
        with open(
            fd, encoding="utf-8", errors="surrogateescape", newline="\n", closefd=False
        ) as file:
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> CredentialsError:
    return CredentialsError(f"passwd file {path} is not readable: {error.strerror}; see ls -l")


def home_directories(environ: Mapping[str, str]) -> tuple[str, ...]:
    """``$HOME`` and the home in the password database; under mount(8) there is no HOME."""
    found = []
    if home := environ.get("HOME"):
        found.append(home)
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        home = ""
    if home and home not in found:
        found.append(home)
    return tuple(found)


def _profiles(homes: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Profiles of the AWS config and credentials files, joined by name."""
    paths = []
    for variable, name in (
        ("AWS_CONFIG_FILE", "config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
    ):
        named = environ.get(variable)
        if named:
            paths.append(os.path.expanduser(named))
        else:
            paths.extend(os.path.join(home, ".aws", name) for home in homes[:1])
    found: dict[str, dict[str, str]] = {}
    for path in paths:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (OSError, UnicodeDecodeError, configparser.Error):
            # The AWS library reads the file again and reports what is wrong with it.
            found.setdefault("default", {})["aws_access_key_id"] = ""
            continue
        for section in parser.sections():
            name = section.removeprefix("profile ").strip()
            found.setdefault(name, {}).update(parser.items(section))
    return found


def _can_yield_keys(profile: Mapping[str, str]) -> bool:
    return any(name in profile for name in _PROFILE_SOURCES)


def _require_profile(name: str, homes: tuple[str, ...], environ: Mapping[str, str]) -> None:
    if name not in _profiles(homes, environ):
        raise CredentialsError(
            f"Could not find profile: {name} in ~/.aws/config or ~/.aws/credentials"
        )
