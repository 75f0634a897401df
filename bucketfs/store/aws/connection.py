"""Builds the aiobotocore client that `S3Store` speaks through, and makes its requests cheap.

aiobotocore spends 0.52 ms of CPU on a HEAD before any byte is sent, most of it on features a mount
never uses; cut down as here it is 0.20 ms. What is cut, by public hooks where there is one: the
user agent is made once, the endpoint is resolved once an operation, dates stay strings, the event
handlers named in `_UNUSED` and `_UNREACHED` are gone. The requests that files are made of take
`FastPath`. Both lean on names that are private (`internals`); without these a connection works, and
takes more CPU. Retries are ours (`bucketfs.store.layers.retry`), so botocore makes one attempt.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from xml.etree import ElementTree as ET

import aiobotocore
import botocore
import trio
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials, AioRefreshableCredentials
from aiobotocore.parsers import AioResponseParserFactory, AioRestXMLParser
from aiobotocore.session import AioSession
from botocore import xform_name
from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth
from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError
from botocore.handlers import BUILTIN_HANDLERS
from botocore.parsers import ResponseParserError

from bucketfs import clock
from bucketfs.credentials import Anonymous, Chain, Credentials, StaticKeys
from bucketfs.errors import StoreError
from bucketfs.store.aws import internals
from bucketfs.store.aws.answers import NO_KEYS, headers_of
from bucketfs.store.aws.error_body import parse_error
from bucketfs.store.aws.fast_path import OPERATIONS, FastPath
from bucketfs.store.aws.list_answers import is_listing
from bucketfs.store.aws.server_time import ServerTime
from bucketfs.store.aws.signing import EMPTY_SHA256, canonical_value, timestamp
from bucketfs.store.config import SLOW, StoreConfig
from bucketfs.store.http.pace import Pace
from bucketfs.store.http.transport import TrioSession
from bucketfs.store.region import region_in

log = logging.getLogger(__name__)

#: Handlers by qualified name that cost time on every request and do nothing for ours.
_UNUSED: Final = frozenset(
    {
        "add_expect_header",  # a round trip before each PUT
        "add_recursion_detection_header",
        "add_retry_headers",
        "inject_api_version_header_if_needed",
        "generate_idempotent_uuid",
        "handle_expires_header",
        "validate_ascii_metadata",  # UTF-8 metadata of other tools must survive a chmod
        "validate_bucket_name",
        "_handle_request_validation_mode_member",
        "_set_auth_scheme_preference_signer",
    }
)
#: The same, where a client makes the handler itself, so that it cannot be unregistered.
_UNREACHED: Final = frozenset(
    {
        "ClientCreator._default_s3_presign_to_sigv2",
        "ClientCreator._inject_s3_input_parameters",
        "UserAgentString.rebuild_and_replace_user_agent_handler",
        "AioRetryHandler",
    }
)

#: How much longer than others the requests of `SLOW` may be silent. Amazon asks for minutes for a
#: Complete.
_LONGER: Final = 5
#: Seconds between two looks at a credential chain that did not change.
_RENEWAL: Final = 60.0
#: Times as many HEADs as bulk transfers may be under way, where the endpoint bears it: 128 of them
#: by default are 6,400 a second at 20 ms, more than Amazon takes for a prefix or one core can do.
_WIDEST: Final = 8
#: Said once a connection, with versions and names.
_NAMES_MISSING: Final = (
    "aiobotocore %s with botocore %s lacks names that bucketfs uses (%s): requests take more CPU, "
    "and a wrong clock or replaced keys may need a remount; install the versions that the bucketfs "
    "package asks for"
)
_SIGNER: Final = "bucketfs-s3v4"
#: Where a request's context has the clock to sign it with.
_NOW: Final = "bucketfs-now"


class _Signer(S3SigV4Auth):
    """SigV4 that takes the hash of a body from the body, and blanks for what servers take them."""

    def _header_value(self, value: str) -> str:
        return canonical_value(value)

    def _modify_request_before_signing(self, request: Any) -> None:
        # the hook between reading the clock and writing its time into the request
        if _NOW in request.context:
            request.context["timestamp"] = timestamp(request.context[_NOW]())
        super()._modify_request_before_signing(request)  # type: ignore[misc]

    def payload(self, request: Any) -> str:
        if not request.data and not hasattr(request.data, "sha256"):
            return EMPTY_SHA256
        digest: str | None = getattr(request.data, "sha256", None)
        return digest or str(super().payload(request))


AUTH_TYPE_MAPS[_SIGNER] = _Signer

#: What botocore's parser ends in that is told ``<Size>many</Size>``, or one thing twice.
_UNREADABLE: Final = (AttributeError, LookupError, TypeError, ValueError)


class _Parser(AioRestXMLParser):  # type: ignore[misc]
    """Leaves dates as the text they came as, and has a name for whatever it cannot read."""

    def __init__(self) -> None:
        super().__init__(timestamp_parser=str)

    async def parse(self, response: dict[str, Any], shape: Any) -> dict[str, Any]:
        """As botocore's. Raises ResponseParserError and nothing else."""
        status: int = response["status_code"]
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            return parse_error(status, response["headers"], response["body"])
        try:
            parsed: dict[str, Any] = await super().parse(response, shape)
        except _UNREADABLE as exc:
            raise ResponseParserError(f"unreadable: {exc!r}") from exc
        if not _is_plain(parsed):
            raise ResponseParserError("what has one value stands there twice")
        return parsed


def _is_plain(value: object) -> bool:
    """Whether an answer is texts and numbers: botocore gives elements on where it found two."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return not isinstance(value, ET.Element)


class _Parsers(AioResponseParserFactory):  # type: ignore[misc]
    """Makes the response parser of S3 once; sources of credentials speak other protocols."""

    def __init__(self) -> None:
        super().__init__()
        self._s3 = _Parser()

    def create_parser(self, protocol_name: str) -> Any:
        return self._s3 if protocol_name == "rest-xml" else super().create_parser(protocol_name)


class Connection:
    """An open client together with the credentials it signs with."""

    def __init__(self, config: StoreConfig, client: Any, credentials: Credentials) -> None:
        self.client = client
        self._time = ServerTime()
        set_handlers(client)
        missing = internals.missing(client)
        if missing:
            log.warning(
                _NAMES_MISSING, aiobotocore.__version__, botocore.__version__, ", ".join(missing)
            )
        self._renewable = internals.CREDENTIALS not in missing
        self._fast_path = (
            None if missing else FastPath(client, trim(client), _Parser(), self._time.now)
        )
        client.meta.events.register("before-sign.s3", self._set_clock)
        if config.signature_v2:
            client.meta.events.register("before-sign.s3", _send_signed_path)
        client.meta.events.register("before-call.s3.HeadBucket", _ask_once)
        for slow in SLOW:
            client.meta.events.register(f"before-call.s3.{slow}", self._allow_silence)
        self._config = config
        self._pace = Pace(2 * config.max_connections, _WIDEST * config.max_connections)
        self._credentials = credentials
        #: Times of the trio clock: the last look at an unchanged chain, and the last change.
        self._renewed = -_RENEWAL
        self._changed = -math.inf

    async def request(self, operation: str, params: dict[str, Any]) -> Any:
        """Make an API call by its S3 name. Raises botocore's exceptions.

        The answer is botocore's; of those of `fast_path.OPERATIONS` only the headers, and as
        ``Body`` the transport's response. A request refused for its time is signed again, once.
        """
        offset = self._time.offset
        try:
            return await self._request(operation, params)
        except ClientError as exc:
            code, headers = str(exc.response["Error"].get("Code")), headers_of(exc.response)
            if not self._time.learn(code, headers, offset):
                raise
        return await self._request(operation, params)

    async def heads(
        self,
        params: dict[str, Any],
        keys: Sequence[str],
        told: Callable[[str, Mapping[str, str] | BotoCoreError | ClientError], None],
    ) -> None:
        """Ask for many objects side by side, as far as `FastPath.heads` can."""
        if self._fast_path is not None:
            await self._fast_path.heads(params, keys, self._pace, told)

    def _set_clock(self, request: Any, **_: object) -> None:
        request.context[_NOW] = self._time.now

    def _allow_silence(self, context: dict[str, Any], **_: object) -> None:
        context["read_timeout"] = min(self._config.silence * _LONGER, self._config.patience)

    async def _renew_in_time(self) -> None:
        """Have keys that end renewed, before a request waits for that without a bound.

        Raises CredentialRetrievalError: Their source hangs.
        """
        keys = self.client._request_signer._credentials if self._renewable else None
        if isinstance(keys, AioRefreshableCredentials) and keys.refresh_needed():
            await _told_in_time(keys.get_frozen_credentials, keys.method, self._config.patience)

    async def _request(self, operation: str, params: dict[str, Any]) -> Any:
        await self._renew_in_time()
        if operation in OPERATIONS and self._fast_path is not None:
            answer = await self._fast_path.request(operation, params)
            if answer is not None:
                return answer
        answer = await getattr(self.client, xform_name(operation))(**params)
        if "Body" in answer:
            answer["Body"] = answer["Body"].raw_stream
        return answer

    async def presigned_url(self, params: dict[str, Any], seconds: int) -> str:
        """An address for GetObject that needs no keys; StoreError without keys of our own."""
        try:
            url: str = await self.client.generate_presigned_url(
                "get_object", Params=params, ExpiresIn=seconds
            )
        except BotoCoreError as exc:
            raise StoreError("NoCredentials", operation="GetObject", message=str(exc)) from None
        return url

    async def renew_credentials(self, since: float) -> bool:
        """Ask for the credentials again; False if they are the refused ones, or have no place.

        botocore's chain, which may have read a file that changed since, is asked anew, but not for
        each of many refusals: a HEAD does not tell refused keys from a forbidden object.

        Args:
            since: When the refused request was signed, or before: of many requests that are
                refused at once, the first to come brings the new keys for all.
        """
        if self._changed >= since:
            return True
        if self._config.reload_credentials is None or not self._renewable:
            return False
        fresh = self._config.reload_credentials()
        if fresh is None:
            return False
        if fresh == self._credentials:
            if not isinstance(fresh, Chain) or clock.monotonic() < self._renewed + _RENEWAL:
                return False
            self._renewed = clock.monotonic()
        keys = await _signing_credentials(self._config, fresh)
        self._credentials = fresh
        self.client._request_signer._credentials = keys
        self._changed = clock.monotonic()
        return True


@asynccontextmanager
async def connect(config: StoreConfig) -> AsyncIterator[Connection]:
    """Open a client for the configured endpoint; its connections close with the context."""
    credentials = config.credentials
    try:
        session = _new_session(config, credentials)
        keys = await _keys_of(credentials, session)
        # the context of `tls_context` verifies; botocore stops at an empty REQUESTS_CA_BUNDLE
        creator = session.create_client(
            "s3", region_name=_region(config, session), endpoint_url=config.url, verify=True, **keys
        )
        client = await creator.__aenter__()
    except NO_KEYS as exc:
        raise StoreError("CredentialsFailed", message=str(exc)) from exc
    except (BotoCoreError, OSError, ValueError) as exc:
        raise StoreError("BadConfiguration", message=str(exc)) from exc
    try:
        yield Connection(config, client, credentials)
    finally:
        await creator.__aexit__(None, None, None)


def _new_session(config: StoreConfig, credentials: Credentials) -> AioSession:
    profile = credentials.profile if isinstance(credentials, Chain) else None
    session = AioSession(profile=profile)
    session.register_component("data_loader", _loader())
    session.register_component("response_parser_factory", _Parsers())
    # As the session's default the configuration reaches the clients of the credential chain too.
    session.set_default_client_config(_client_config(config, credentials, session))
    return session


@functools.cache
def _loader() -> Any:
    """Parses botocore's description of S3 once a process, which takes 70 ms a client otherwise."""
    return AioSession().get_component("data_loader")


def _client_config(config: StoreConfig, credentials: Credentials, session: AioSession) -> AioConfig:
    path_style = not config.is_aws if config.path_style is None else config.path_style
    signature: Any = "s3" if config.signature_v2 else None
    if isinstance(credentials, Anonymous):
        signature = botocore.UNSIGNED
    return AioConfig(
        http_session_cls=TrioSession,
        connector_args={"ssl_context": tls_context(config, session)},
        connect_timeout=config.reach,
        read_timeout=config.silence,
        max_pool_connections=(_WIDEST + 1) * config.max_connections,
        parameter_validation=False,
        retries={"total_max_attempts": 1, "mode": "standard"},
        signature_version=signature,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent=f"bucketfs botocore/{botocore.__version__}",
        s3={
            "addressing_style": "path" if path_style else "virtual",
            "payload_signing_enabled": not config.is_tls,
        },
    )


#: Variables that tell OpenSSL whom the system trusts.
_TRUSTED: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def tls_context(config: StoreConfig, session: AioSession) -> ssl.SSLContext:
    """Trust the system's authorities, those of a bundle that is named, or nobody in particular."""
    bundle = config.verify if isinstance(config.verify, str) else None
    bundle = bundle or session.get_config_variable("ca_bundle")
    named = tuple(os.environ.get(name) for name in _TRUSTED)
    return _tls_context(bundle, named, config.verify is not False, config.verify_hostname)


@functools.cache
def _tls_context(
    bundle: str | None,
    _named: tuple[str | None, ...],
    verify: bool,
    verify_hostname: bool,
) -> ssl.SSLContext:
    """One for all buckets of a mount: the system's authorities take 25 ms and a megabyte."""
    if bundle and os.path.isdir(bundle):
        context = ssl.create_default_context(capath=bundle)
    else:
        context = ssl.create_default_context(cafile=bundle)
    if not verify_hostname or not verify:
        context.check_hostname = False
    if not verify:
        context.verify_mode = ssl.CERT_NONE
    return context


def _region(config: StoreConfig, session: AioSession) -> str:
    """The endpoint's name knows it better than a configuration that is also for other services."""
    configured = session.get_config_variable("region")
    return config.region or region_in(config.host) or configured or "us-east-1"


async def _keys_of(credentials: Credentials, session: AioSession) -> dict[str, str | None]:
    if isinstance(credentials, StaticKeys):
        return {
            "aws_access_key_id": credentials.access_key,
            "aws_secret_access_key": credentials.secret_key,
            "aws_session_token": credentials.token,
        }
    if isinstance(credentials, Chain) and await session.get_credentials() is None:
        raise StoreError("NoCredentials", message="botocore's chain found none")
    return {}


async def _signing_credentials(config: StoreConfig, credentials: Credentials) -> Any:
    """What botocore's signer wants to hold, for credentials that replace others."""
    if isinstance(credentials, StaticKeys):
        return AioCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    ask = _new_session(config, credentials).get_credentials
    try:
        return await _told_in_time(ask, "botocore's chain", config.patience)
    except NO_KEYS as exc:
        raise StoreError("CredentialsFailed", message=str(exc)) from exc
    except BotoCoreError as exc:
        raise StoreError("NoCredentials", message=str(exc)) from exc


async def _told_in_time(ask: Callable[[], Awaitable[Any]], source: str, patience: float) -> Any:
    """What a source of keys says.

    Raises CredentialRetrievalError: It says nothing for `patience` seconds.
    """
    with trio.move_on_after(patience):
        return await ask()
    raise CredentialRetrievalError(
        provider=source, error_msg=f"no answer for {patience:.0f} seconds"
    )


def _send_signed_path(request: Any, **_: object) -> None:
    """Ask for a bucket by the path that version 2 signs: with a slash behind its name."""
    sent = urlsplit(request.url)
    if request.auth_path == f"{sent.path}/":
        request.url = urlunsplit((sent.scheme, sent.netloc, request.auth_path, sent.query, ""))


#: Operations whose answers we read ourselves.
_LISTINGS: Final = ("ListObjects", "ListObjectsV2", "ListObjectVersions", "ListMultipartUploads")


def set_handlers(client: Any) -> None:
    """Take handlers of events out of a client, and put ours in, as its interface allows it."""
    events = client.meta.events
    for event, handler, *_ in BUILTIN_HANDLERS:
        if getattr(handler, "__qualname__", None) in _UNUSED:
            events.unregister(event, handler)
    events.register("choose-signer.s3", _choose_signer)
    for operation in _LISTINGS:
        events.register(f"before-parse.s3.{operation}", _keep_page)


# ruff: noqa: SLF001 - aiobotocore offers no other way to any of this
def trim(client: Any) -> dict[tuple[str, str], Any]:
    """Take out of a client what else costs time and does nothing for us.

    Answers where its requests go, by operation and bucket, once they have been made. Needs the
    names of `internals`.
    """
    emitter = client.meta.events._emitter
    everything = emitter._handlers.prefix_search

    def ours_first(name: str) -> list[Any]:
        used = [
            handler
            for handler in everything(name)
            if getattr(handler, "__qualname__", type(handler).__qualname__) not in _UNREACHED
        ]
        return sorted(used, key=lambda handler: handler is not _keep_page)

    emitter._handlers.prefix_search = ours_first
    emitter._lookup_cache.clear()
    agent = client._user_agent_creator.to_string()
    client._user_agent_creator.to_string = lambda: agent
    return _resolve_once(client._ruleset_resolver)


def _resolve_once(resolver: Any) -> dict[tuple[str, str], Any]:
    """Remember the endpoint of each operation: it depends on the bucket, never on the key."""
    resolve = resolver.construct_endpoint
    known: dict[tuple[str, str], Any] = {}

    async def construct_endpoint(operation_model: Any, call_args: Any, request_context: Any) -> Any:
        name = (operation_model.name, call_args.get("Bucket", ""))
        if "endpoint_properties" in request_context:
            known.clear()  # asked twice for one request: the bucket is in another region
        if name not in known:
            known[name] = await resolve(
                operation_model=operation_model,
                call_args=call_args,
                request_context=request_context,
            )
        return known[name]

    resolver.construct_endpoint = construct_endpoint
    return known


def _ask_once(context: dict[str, Any], **_: object) -> None:
    """Have the question where a bucket is not lead to itself.

    botocore asks it by HeadBucket after a redirect; a server that redirects that one, too, would be
    asked until the stack overflows.
    """
    context.get("s3_redirect", {})["redirected"] = True


def _choose_signer(signature_version: Any, **_: object) -> str | None:
    return _SIGNER if signature_version in ("s3v4", "v4") else None


def _keep_page(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """Keep a listing from being read twice by botocore, which finds an empty body."""
    body = response_dict["body"]
    if response_dict["status_code"] == HTTPStatus.OK and is_listing(body):
        response_dict["body"] = b""
        customized_response_dict["Listing"] = body
