"""The fast path of the requests that make up a mount's day: HEAD, GET, PUT, DELETE, parts.

aiobotocore's own way raises a dozen events a request and copies its headers through five classes,
for the sake of services and features that play no part here; that takes twice as long as all the
rest of a HEAD. The fast path asks botocore for what it knows: how a request is written, where it
goes, who signs it, what an error says. It leaves the events out, and reads no answer but an error.

The first request of each operation goes aiobotocore's way, and so does each that is told to go
elsewhere (a bucket in another region): what the endpoint's rules say is learned from there.
Requests that are not signed with Signature Version 4 never come here, nor does any where
aiobotocore lacks one of the names of `internals`.
"""

# ruff: noqa: SLF001 - aiobotocore offers no other way to any of this

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.auth import UNSIGNED_PAYLOAD
from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import percent_encode, percent_encode_sequence

from bucketfs.store.aws.error_body import parse_error
from bucketfs.store.aws.signing import EMPTY_SHA256, Keys, Scope, Signer, sign, timestamp
from bucketfs.store.http.http1 import Answer
from bucketfs.store.http.many import ManyHeads
from bucketfs.store.http.pace import Pace
from bucketfs.store.http.transport import Origin

#: Operations without a listing in their answer, and without special rules in botocore.
OPERATIONS: Final = frozenset(
    {"HeadObject", "GetObject", "PutObject", "DeleteObject", "UploadPart"}
)

#: What stands in a form where a key, and where a signature goes.
_ANY_KEY: Final = "bucketfs-any-key"
#: Of a key, what botocore leaves as it is.
_UNESCAPED: Final = "/~"

#: Answers after which botocore looks for the bucket's region.
_ELSEWHERE: Final = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.BAD_REQUEST,
    }
)


@dataclass(frozen=True, slots=True)
class _Route:
    """Where the requests of an operation go.

    Attributes:
        endpoint: What botocore's rules said; the others are taken from it.
        model: The operation as botocore describes it.
        origin: Scheme and host.
        path: What the bucket adds before the key, "" or ``/bucket``.
        host: Value of the Host header.
        scope: What signatures name.
    """

    endpoint: Any
    model: Any
    origin: str
    path: str
    host: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class _Form:
    """A HEAD of a second, between whose pieces stand a key and what signs it.

    Attributes:
        moment: The second, as signatures write it.
        path: What stands before the key.
        signer: Signs paths.
    """

    moment: str
    path: str
    signer: Signer
    before: bytes
    between: bytes
    after: bytes

    def written(self, key: str) -> bytes:
        """The request for a key."""
        name = percent_encode(key, safe=_UNESCAPED)
        signature = self.signer.authorization(self.path + name)
        return b"".join((self.before, name.encode(), self.between, signature.encode(), self.after))


class FastPath:
    """See the module.

    Args:
        client: An aiobotocore client that has all names of `internals`.
        endpoints: What the rules said, by operation and bucket; filled by aiobotocore's.
        parser: aiobotocore's, of answers of S3.
        now: Unix time at the endpoint, to sign with.
    """

    def __init__(
        self,
        client: Any,
        endpoints: Mapping[tuple[str, str], Any],
        parser: Any,
        now: Callable[[], float],
    ) -> None:
        self._client = client
        self._now = now
        self._endpoints = endpoints
        self._routes: dict[tuple[str, str], _Route] = {}
        self._agent: str = client._user_agent_creator.to_string()
        self._parser = parser

    async def request(self, operation: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Make a call; None where it must go aiobotocore's way.

        The answer has the headers where botocore has them, and the unread body of a GET. Raises
        botocore's exceptions.
        """
        credentials = self._client._request_signer._credentials
        route = self._route(operation, params["Bucket"])
        if route is None or credentials is None:
            return None
        request = self._prepare(route, params, await credentials.get_frozen_credentials())
        response = await self._client._endpoint.http_session.send(request)
        if response.status_code in _ELSEWHERE:
            await response.content
            return None
        if response.status_code >= HTTPStatus.MULTIPLE_CHOICES or not request.stream_output:
            await self._check(route, operation, response)
        metadata = {"HTTPHeaders": response.headers, "HTTPStatusCode": response.status_code}
        return {"ResponseMetadata": metadata, "Body": response.raw}

    async def heads(
        self,
        params: Mapping[str, Any],
        keys: Sequence[str],
        pace: Pace,
        told: Callable[[str, Mapping[str, str] | BotoCoreError | ClientError], None],
    ) -> None:
        """Make many calls of HeadObject; see `ManyHeads`.

        Args:
            params: What all have in common.
            keys: Of the objects.
            pace: How many may be under way.
            told: Is given the headers of each answer by its key, or what it failed with; nothing of
                keys that were not asked for.
        """
        credentials = self._client._request_signer._credentials
        route = self._route("HeadObject", params["Bucket"])
        if route is None or credentials is None:
            return
        frozen = await credentials.get_frozen_credentials()
        session = self._client._endpoint.http_session

        form: _Form | None = None

        def write(key: str) -> bytes:
            nonlocal form
            moment = timestamp(self._now())
            if form is None or form.moment != moment:
                form = self._form(route, params, frozen, moment, session)
            return form.written(key)

        def take(key: str, answer: Answer | BotoCoreError) -> None:
            if isinstance(answer, BotoCoreError):
                told(key, answer)
            elif answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                parsed: Any = parse_error(answer.status, answer.headers, b"")
                told(key, ClientError(parsed, "HeadObject"))
            else:
                told(key, answer.headers)

        origin, _ = session.locate(route.origin)
        await ManyHeads(session, origin, keys, write=write, pace=pace, told=take).run()

    def _form(
        self, route: _Route, params: Mapping[str, Any], keys: Keys, moment: str, session: Any
    ) -> _Form:
        """A HEAD as it is written now, with room for a key and a signature."""
        written = self._client._serializer.serialize_to_request(
            {**params, "Key": _ANY_KEY}, route.model
        )
        headers: Any = written["headers"]
        query = percent_encode_sequence(written["query_string"])
        signer = Signer(
            "HEAD",
            query,
            {"host": route.host, **headers},
            keys=keys,
            scope=route.scope,
            moment=moment,
            payload=EMPTY_SHA256,
        )
        headers |= signer.added | {"authorization": _ANY_KEY, "user-agent": self._agent}
        path, _, behind = (route.path + written["url_path"]).partition(_ANY_KEY)
        url = f"{route.origin}{path}{_ANY_KEY}{behind}" + (f"?{query}" if query else "")
        head: bytes = session.written(AWSPreparedRequest("HEAD", url, headers, None, False))
        return _Form(moment, path, signer, *head.split(_ANY_KEY.encode()))

    def _route(self, operation: str, bucket: str) -> _Route | None:
        endpoint = self._endpoints.get((operation, bucket))
        if endpoint is None:
            return None
        route = self._routes.get((operation, bucket))
        if route is not None and route.endpoint is endpoint:
            return route
        schemes = endpoint.properties.get("authSchemes")
        if not schemes or endpoint.headers:
            return None
        kind, signing = self._client._ruleset_resolver.auth_schemes_to_signing_ctx(schemes)
        if kind not in ("v4", "s3v4"):
            return None
        parts = urlsplit(endpoint.url)
        route = _Route(
            endpoint,
            self._client.meta.service_model.operation_model(operation),
            f"{parts.scheme}://{parts.netloc}",
            parts.path.rstrip("/"),
            Origin.of(endpoint.url, None).header,
            Scope(signing["region"], signing["signing_name"]),
        )
        self._routes[operation, bucket] = route
        return route

    def _prepare(self, route: _Route, params: Mapping[str, Any], keys: Keys) -> AWSPreparedRequest:
        written = self._client._serializer.serialize_to_request(params, route.model)
        method: str = written["method"]
        path = route.path + written["url_path"]
        query = percent_encode_sequence(written["query_string"])
        body = params.get("Body")
        payload = EMPTY_SHA256 if body is None else body.sha256 or UNSIGNED_PAYLOAD
        headers: Any = written["headers"]
        headers |= sign(
            method,
            path,
            query,
            {"host": route.host, **headers},
            keys=keys,
            scope=route.scope,
            moment=timestamp(self._now()),
            payload=payload,
        )
        headers["user-agent"] = self._agent
        if body is not None or method == "DELETE":
            headers["Content-Length"] = str(len(body or b""))
        url = f"{route.origin}{path}?{query}" if query else route.origin + path
        stream = route.model.has_streaming_output
        return AWSPreparedRequest(method, url, headers, body, stream)

    async def _check(self, route: _Route, operation: str, response: Any) -> None:
        """Raise ClientError for an answer that is an error, even if it says 200."""
        body = await response.content
        answer = {"headers": response.headers, "status_code": response.status_code, "body": body}
        if response.status_code < HTTPStatus.MULTIPLE_CHOICES:
            if not body:
                return
            await self._client.meta.events.emit(
                f"before-parse.s3.{operation}",
                operation_model=route.model,
                response_dict=answer,
                customized_response_dict={},
            )
        if answer["status_code"] >= HTTPStatus.MULTIPLE_CHOICES:
            parsed = await self._parser.parse(answer, route.model.output_shape)
            raise ClientError(parsed, operation)
