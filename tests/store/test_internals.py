"""The private names of aiobotocore and botocore that are used, and the code that is stood in for.

After the bound in ``pyproject.toml`` was raised: where `test_what_is_shadowed` fails, compare the
function in the old version and in the new one, carry what changed over to the code that the table
names, and put the hash of the message into the table.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import logging
import re
import textwrap
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiobotocore
import botocore
import pytest
from aiobotocore import (
    awsrequest,
    client,
    endpoint,
    hooks,
    httpxsession,
    parsers,
    regions,
    signers,
    utils,
)
from aiobotocore.session import AioSession
from botocore import auth, handlers, useragent
from botocore.hooks import EventAliaser, _PrefixTrie
from botocore.regions import EndpointRulesetResolver

from bucketfs.credentials import StaticKeys
from bucketfs.errors import NotFound, StoreError
from bucketfs.store.aws import connection as ours
from bucketfs.store.aws import internals
from bucketfs.store.aws.fast_path import OPERATIONS, FastPath
from bucketfs.store.base import BytesBody, Headers, Store
from bucketfs.store.opening import open_store
from tests.harness.witness import Witness
from tests.store.conftest import config_of
from tests.store.test_transport import CONFIG, error, talking

#: What is replaced, overridden or imitated; a hash of its source; what to compare it with.
SHADOWED: dict[str, tuple[Any, str, str]] = {
    "AioBaseClient._make_api_call": (
        client.AioBaseClient._make_api_call,
        "9416446a5d8349a2",
        "FastPath.request does the same without events",
    ),
    "AioBaseClient._convert_to_request_dict": (
        client.AioBaseClient._convert_to_request_dict,
        "066557f5366aef3a",
        "FastPath._prepare",
    ),
    "AioBaseClient._resolve_endpoint_ruleset": (
        client.AioBaseClient._resolve_endpoint_ruleset,
        "6085234faca5e2c9",
        "FastPath._route",
    ),
    "AioEndpoint._send_request": (
        endpoint.AioEndpoint._send_request,
        "f2dfbdb48e73960d",
        "FastPath.request; retries are `store.retry`'s",
    ),
    "AioEndpoint._do_get_response": (
        endpoint.AioEndpoint._do_get_response,
        "a81fc92ed9973768",
        "FastPath.request and _check",
    ),
    "AioEndpoint._send": (endpoint.AioEndpoint._send, "acb1b760041284bb", "FastPath.request"),
    "convert_to_response_dict": (
        endpoint.convert_to_response_dict,
        "7b32c63320bd3988",
        "FastPath._check writes the dict that is parsed",
    ),
    "AioEndpointCreator.create_endpoint": (
        endpoint.AioEndpointCreator.create_endpoint,
        "18a9e8b41d50af8e",
        "TrioSession.__init__ is called here",
    ),
    "HttpxSession.__init__": (
        httpxsession.HttpxSession.__init__,
        "84d859a58a3af1d7",
        "TrioSession.__init__ stands in for it",
    ),
    "HttpxSession.close": (
        httpxsession.HttpxSession.close,
        "0ce05299e7e235a9",
        "leads to TrioSession.__aexit__",
    ),
    "is_httpx_session_cls": (
        httpxsession.is_httpx_session_cls,
        "d214ebd29228084c",
        "why TrioSession has its base: it is fit for trio",
    ),
    "AioAWSResponse": (
        awsrequest.AioAWSResponse,
        "9aa32d0cb73c6d5f",
        "TrioSession._exchange makes it",
    ),
    "AioRequestSigner.sign": (
        signers.AioRequestSigner.sign,
        "8ebd621e9afc6342",
        "FastPath._prepare signs itself",
    ),
    "AioRequestSigner.get_auth_instance": (
        signers.AioRequestSigner.get_auth_instance,
        "e3e7ce8e67a72f22",
        "how session._Signer is made",
    ),
    "SigV4Auth": (auth.SigV4Auth, "733abf07a77f36ba", "signing.sign, session._Signer"),
    "S3SigV4Auth": (auth.S3SigV4Auth, "223a49dbb554acde", "signing.sign, session._Signer"),
    "AioS3RegionRedirectorv2.redirect_from_error": (
        utils.AioS3RegionRedirectorv2.redirect_from_error,
        "066ad7caf4c49204",
        "short._ELSEWHERE lists the answers it acts on; session._resolve_once forgets endpoints",
    ),
    "AioEndpointRulesetResolver.construct_endpoint": (
        regions.AioEndpointRulesetResolver.construct_endpoint,
        "4bd9a4ee4c965671",
        "session._resolve_once: what the endpoint depends on, and the names of the arguments",
    ),
    "EndpointRulesetResolver.auth_schemes_to_signing_ctx": (
        EndpointRulesetResolver.auth_schemes_to_signing_ctx,
        "f20b9f71c553f661",
        "FastPath._route",
    ),
    "UserAgentString.to_string": (
        useragent.UserAgentString.to_string,
        "3e27ad1f365cae9b",
        "session.trim renders it once",
    ),
    "_PrefixTrie.prefix_search": (
        _PrefixTrie.prefix_search,
        "dc19492534d12f90",
        "session.trim leaves handlers out of its answer",
    ),
    "AioHierarchicalEmitter._emit": (
        hooks.AioHierarchicalEmitter._emit,
        "5df0b9cc938ff4e1",
        "session.trim: it asks and keeps prefix_search",
    ),
    "EventAliaser.emit": (
        EventAliaser.emit,
        "0cbe53bfc02abd04",
        "session.trim: the emitter within",
    ),
    "AioResponseParserFactory": (
        parsers.AioResponseParserFactory,
        "5bb5fefc7a8e109f",
        "session._Parsers",
    ),
    "_handle_200_error": (
        handlers._handle_200_error,
        "a3182648d2550c15",
        "FastPath._check, session._keep_page: errors in a 200",
    ),
}

#: Handlers of botocore's events for the operations of the fast path, which leaves them out.
LEFT_OUT: dict[str, set[str]] = {
    "provide-client-params": set(),
    "before-parameter-build": {
        "ClientCreator._inject_s3_input_parameters",
        "S3RegionRedirectorv2.annotate_request_context",
        "_handle_request_validation_mode_member",
        "convert_body_to_file_like_object",
        "generate_idempotent_uuid",
        "remove_bucket_from_url_paths_from_model",
        "sse_md5",
        "validate_ascii_metadata",
        "validate_bucket_name",
    },
    "before-endpoint-resolution": {
        "S3RegionRedirectorv2.redirect_from_cache",
        "customize_endpoint_resolver_builtins",
    },
    "before-call": {
        "S3ExpressIdentityResolver.apply_signing_cache_key",
        "add_expect_header",
        "add_recursion_detection_header",
        "inject_api_version_header_if_needed",
    },
    "request-created": {
        "AioRequestSigner.handler",
        "UserAgentString.rebuild_and_replace_user_agent_handler",
        "add_retry_headers",
    },
    "choose-signer": {
        "ClientCreator._default_s3_presign_to_sigv2",
        "_set_auth_scheme_preference_signer",
        "set_operation_specific_signer",
    },
    "before-sign": {
        "S3ExpressIdentityResolver.resolve_s3express_identity",
        "_set_extra_headers_for_unsigned_request",
        "remove_arn_from_signing_path",
    },
    "before-send": set(),
    "response-received": set(),
    "before-parse": {"_handle_200_error", "handle_expires_header"},
    "needs-retry": {
        "AioRetryHandler.needs_retry",
        "AioS3RegionRedirectorv2.redirect_from_error",
        "_update_status_code",
    },
    "after-call": {"RetryQuotaChecker.release_retry_quota"},
    "after-call-error": set(),
}


def source_hash(thing: Any) -> str:
    text = textwrap.dedent(inspect.getsource(thing))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", SHADOWED)
def test_what_is_shadowed(name: str) -> None:
    thing, known, compare = SHADOWED[name]
    found = source_hash(thing)
    assert found == known, (
        f"{name} changed in aiobotocore {aiobotocore.__version__}, botocore "
        f"{botocore.__version__}; compare its source with: {compare}. Then note {found} here."
    )


@asynccontextmanager
async def untouched() -> Any:
    """A client as aiobotocore makes it."""
    session = ours._new_session(CONFIG, CONFIG.credentials)
    creator = session.create_client(
        "s3", region_name="us-east-1", aws_access_key_id="AK", aws_secret_access_key="SK"
    )
    async with creator as made:
        yield made


@pytest.mark.parametrize("event", LEFT_OUT)
async def test_handlers_that_the_fast_path_leaves_out(event: str) -> None:
    async with untouched() as made:
        search = made.meta.events._emitter._handlers.prefix_search
        found = {
            getattr(handler, "__qualname__", type(handler).__qualname__)
            for operation in OPERATIONS
            for handler in search(f"{event}.s3.{operation}")
        }
    assert found == LEFT_OUT[event], "read what is new: must FastPath do it, or session._UNUSED?"


async def test_every_name_is_there() -> None:
    async with untouched() as made:
        assert internals.missing(made) == []


def _private(path: Path) -> set[str]:
    """Private attributes of what is not ours, and private names that are imported."""
    tree = ast.parse(path.read_text())
    found = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_") and node.module != "__future__"
    }
    own = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    } | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
            on_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            if not (on_self and node.attr in own):
                found.add(node.attr)
    return found


def test_every_private_name_is_listed() -> None:
    folder = Path(ours.__file__).parent
    used = {name for path in folder.glob("*.py") for name in _private(path)}
    listed = {part for name in internals.USED for part in name.split(".") if part[0] == "_"}
    assert used <= listed
    # an override is a name of its base's that no attribute shows
    assert listed - used <= {name for name in vars(ours._Signer) if name[0] == "_"}


class Without:
    """An object that has lost one name, for those who look from outside."""

    def __init__(self, inner: Any, path: list[str]) -> None:
        vars(self).update(inner=inner, path=path)

    def __getattr__(self, name: str) -> Any:
        if name != self.path[0]:
            return getattr(self.inner, name)
        if len(self.path) == 1:
            raise AttributeError(name)
        return Without(getattr(self.inner, name), self.path[1:])

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)


def lose(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    root, *path = name.split(".")
    if root != "client":  # what is renamed is called by nobody
        monkeypatch.delattr(ours._Signer, path[0])
        monkeypatch.setattr(internals, root, SimpleNamespace())
        return
    create = AioSession.create_client

    @asynccontextmanager
    async def create_client(*args: Any, **kwargs: Any) -> Any:
        async with create(*args, **kwargs) as made:
            yield Without(made, path)

    monkeypatch.setattr(AioSession, "create_client", create_client)


@pytest.fixture
def only_aiobotocores_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def request(*_: Any) -> None:
        raise AssertionError("the fast path was taken")

    monkeypatch.setattr(FastPath, "request", request)


@pytest.mark.needs("text")
@pytest.mark.usefixtures("only_aiobotocores_way")
@pytest.mark.parametrize("name", internals.USED)
async def test_aiobotocores_way_serves_where_a_name_is_missing(
    name: str, bucket: Witness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lose(monkeypatch, name)
    async with open_store(config_of(bucket)) as store:
        await every_kind_of_request(store)
    warnings = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert name in warnings[0].getMessage()
    assert not warnings[0].exc_info


async def every_kind_of_request(store: Store) -> None:
    rich = Headers({"mode": "33188", "name": "ü"}, "text/plain")
    for _ in range(2):
        await store.put("dir/ü", BytesBody(b"hello"), rich)
        found = await store.head("dir/ü")
        assert (found.size, found.headers and found.headers.metadata) == (5, rich.metadata)
        assert found.last_modified
    data = bytearray()
    await store.get("dir/ü", data.extend, start=1, stop=3)
    assert data == b"el"
    page = await store.list("dir/")
    assert [one.key for one in page.objects] == ["dir/ü"]
    upload = await store.create_upload("big", rich)
    part = await store.upload_part("big", upload, 1, BytesBody(b"part"))
    await store.complete("big", upload, [(1, part)], size=4)
    await store.delete_many(["big"])
    await store.delete("dir/ü")
    with pytest.raises(NotFound):
        await store.head("dir/ü")


async def test_keys_are_not_renewed_where_there_is_no_place_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The refusal is told as one."""
    lose(monkeypatch, internals.CREDENTIALS)
    fresh = StaticKeys("AK2", "SK")
    async with talking(error(403, "InvalidAccessKeyId"), reload_credentials=lambda: fresh) as (
        store,
        script,
    ):
        with pytest.raises(StoreError) as raised:
            await store.head("k")
    assert raised.value.status == 403
    assert len(script.seen) == 1
