"""`S3Store`: one S3 bucket through aiobotocore, one method an API call, no policy.

Each method makes its request once, translates the answer into the values of `bucketfs.store.base`
and any failure into a `StoreError`. Retrying, limiting and making up for what an endpoint lacks are
the wrappers' business. RenameObject and appending PUTs are never sent: Ceph and moto answer 200 to
both and destroy data.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from bucketfs.errors import (
    NotFound,
    PreconditionFailed,
    StoreError,
    Unsupported,
    is_denied,
)
from bucketfs.store.aws.answers import (
    customer_key_params,
    details,
    header_params,
    headers_of,
    headers_of_object,
    is_copy,
    new_object_params,
    object_info,
    status_of,
    taken,
    time_told,
    translate,
    unquote,
    unsigned,
    unusable,
    with_version,
)
from bucketfs.store.aws.connection import Connection
from bucketfs.store.aws.download import feed, refused, verify
from bucketfs.store.aws.error_body import error_code, words
from bucketfs.store.aws.listen import OPERATION, listen
from bucketfs.store.aws.listings import FULL_PAGE, Listings
from bucketfs.store.aws.ranges import Asked, Told, believed, length_of
from bucketfs.store.aws.sums import Checksums, multipart_etag
from bucketfs.store.base import (
    NO_CONDITIONS,
    Body,
    Capabilities,
    Foreseen,
    Headers,
    Hear,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    OnToken,
    Sink,
    UploadInfo,
    VersionPage,
    ignored,
    is_etag,
    is_manifest,
)
from bucketfs.store.capability import Provider
from bucketfs.store.config import StoreConfig
from bucketfs.store.refusal import as_taken

#: Most keys S3 takes in one DeleteObjects.
_BATCH: Final = 1000
_Params = dict[str, Any]


class S3Store:
    """One bucket.

    Args:
        connection: An open client, which stays open as long as the store is used.
        config: Names the bucket and what new objects get.
        provider: What is known of the endpoint; it learns from what this store sees.
    """

    def __init__(self, connection: Connection, config: StoreConfig, provider: Provider) -> None:
        self._connection = connection
        self._config = config
        self._provider = provider
        payer = {"RequestPayer": "requester"} if config.requester_pays else {}
        self._always: _Params = {"Bucket": config.bucket, **payer}
        self._object: _Params = {**self._always, **customer_key_params(config, "SSECustomer")}
        self._copied: _Params = {
            **self._object,
            **customer_key_params(config, "CopySourceSSECustomer"),
        }
        self._new = new_object_params(config)
        self._sums = Checksums(config, provider)
        self._listings = Listings(self._call, self._always, provider)
        events = connection.client.meta.events
        events.register("before-call.s3.DeleteObjects", self._choose_sum)
        events.register("before-call.s3.ListObjectsV2", self._listings.ask_for_headers)

    @property
    def capabilities(self) -> Capabilities:
        return self._provider.capabilities

    async def head(self, key: str, *, version: str = "") -> ObjectInfo:
        """As `Store.head`, of this version of the object if one is named."""
        params = _of_version(key, version)
        answer = await self._call("HeadObject", key, self._object, **params)
        return self._headed(key, headers_of(answer))

    def _headed(self, key: str, headers: Mapping[str, str]) -> ObjectInfo:
        came = headers_of_object(headers, "HeadObject", key)
        try:
            size = length_of(came)
        except ValueError as exc:
            raise unusable("HeadObject", key, str(exc)) from None
        if size is None:
            raise unusable("HeadObject", key, "no Content-Length in the answer")
        return self._versioned(object_info(key, came, size))

    async def heads(
        self,
        keys: Sequence[str],
        told: Callable[[ObjectInfo], None],
        failed: Callable[[StoreError], None] = ignored,
    ) -> None:
        def take(key: str, came: Mapping[str, str] | BotoCoreError | ClientError) -> None:
            try:
                if isinstance(came, Exception):
                    raise translate(came, "HeadObject", key)
                info = self._headed(key, came)
            except StoreError as exc:
                failed(exc)
            else:
                told(info)

        with suppress(BotoCoreError):  # there are no keys: who asks for one object alone hears why
            await self._connection.heads(self._object, keys, take)

    async def get(
        self,
        key: str,
        sink: Sink,
        *,
        start: int = 0,
        stop: int | None = None,
        if_match: str = "",
        size: int | None = None,
        version: str = "",
    ) -> ObjectInfo:
        """As `Store.get`, of this version of the object if one is named."""
        asked = Asked(key, start, stop, if_match, size)
        params = _of_version(key, version)
        if asked.header:
            params["Range"] = asked.header
        head = partial(self.head, version=version)

        async def ask() -> Any:
            can = self.capabilities.get_if_match
            sent = bool(if_match) and is_etag(if_match) and can
            condition = {"IfMatch": f'"{if_match}"'} if sent else {}
            return await self._call("GetObject", key, self._object, **params, **condition)

        try:
            answer = await as_taken(self._provider, ask, *(["get_if_match"] if if_match else []))
        except StoreError as exc:
            if exc.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return await refused(asked, exc, head)
            raise
        try:
            told, info = self._believed(asked, answer)
            await verify(asked, told, info, head)
            if told.cut:
                self._provider.miss_ranges()
            await feed(answer["Body"], sink, asked, told, info)
        finally:
            answer["Body"].close()  # without effect after its end
        return info

    def _believed(self, asked: Asked, answer: Any) -> tuple[Told, ObjectInfo]:
        """What the answer to a GET tells, if it is one to what was asked. Raises StoreError."""
        came = headers_of_object(headers_of(answer), "GetObject", asked.key)
        told = believed(asked, status_of(answer), came)
        info = self._versioned(object_info(asked.key, came, told.size))
        told_apart = is_etag(info.etag) or is_manifest(info.etag)
        was_sent = is_etag(asked.etag) and self.capabilities.get_if_match
        if asked.etag and was_sent and not told_apart:
            # known from a listing; it was sent as a condition
            info = replace(info, etag=asked.etag)
        return told, info

    async def put(
        self,
        key: str,
        body: Body,
        headers: Headers,
        *,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        params = {**self._new, **self._described(headers), **_tagging(headers)}
        if not self.capabilities.storage_class:
            params.pop("StorageClass", None)
        params |= self._target_condition("put", if_match, if_none_match)
        carried, sums = await self._sums.outfit(body)
        try:
            answer = await self._call("PutObject", key, self._object, Key=key, **params, **carried)
        except PreconditionFailed as exc:
            raise taken(exc) if if_none_match else exc from None
        self._provider.versioned(headers_of(answer).get("x-amz-version-id", ""))
        if not (etag := unquote(headers_of(answer).get("etag"))):
            return await self.head(key)
        self._sums.stored(key, etag, sums, headers_of(answer))
        return ObjectInfo(key, len(body), etag, 0, headers, self._config.storage_class)

    async def copy(
        self,
        source: str,
        target: str,
        *,
        size: int,
        headers: Headers | None = None,
        source_if_match: str = "",
        target_if_match: str = "",
        target_if_none_match: bool = False,
    ) -> ObjectInfo:
        params: _Params = dict(self._new)
        if headers is not None:
            params |= {"MetadataDirective": "REPLACE", **self._described(headers)}
        params |= self._source_condition(source_if_match)
        params |= self._target_condition("target", target_if_match, target_if_none_match)
        params["CopySource"] = {"Bucket": self._config.bucket, "Key": source}
        answer = await self._call("CopyObject", source, self._copied, Key=target, **params)
        result = answer.get("CopyObjectResult", {})
        etag = unquote(result.get("ETag"))
        if not (etag and self.capabilities.etags):
            found = await self.head(target)
            if self.capabilities.etags and not is_copy(
                found,
                size=size,
                source=source_if_match,
                replaced=target_if_match,
                metadata=self._kept(headers),
            ):
                raise unusable("CopyObject", source, "no copy in the answer, nor in its place")
            return found
        modified = time_told(result.get("LastModified"))
        return ObjectInfo(target, size, etag, modified, headers, self._config.storage_class)

    async def delete(self, key: str, *, if_match: str = "") -> None:
        params = self._condition(if_match) if self._provider.carries("delete_if_match") else {}
        try:
            await self._call("DeleteObject", key, self._always, Key=key, **params)
        except NotFound as exc:
            if exc.code == "NoSuchBucket":
                raise

    async def delete_many(
        self, keys: Sequence[str], *, if_match: Mapping[str, str] = NO_CONDITIONS
    ) -> Mapping[str, StoreError]:
        told = if_match if self._provider.carries("delete_many_if_match") else NO_CONDITIONS
        etags = {
            key: {"ETag": self._provider.quote(etag)} for key, etag in told.items() if is_etag(etag)
        }
        stayed: dict[str, StoreError] = {}
        for at in range(0, len(keys), _BATCH):
            asked = dict.fromkeys(keys[at : at + _BATCH])
            batch = [{"Key": key, **etags.get(key, {})} for key in asked]
            answer = await self._call(
                "DeleteObjects", keys[at], self._always, Delete={"Objects": batch, "Quiet": True}
            )
            for error in answer.get("Errors", []):
                key, code = error.get("Key", ""), error.get("Code")
                if key not in asked:
                    raise unusable("DeleteObjects", keys[at], f"it names {words(key)!r}")
                if code != "NoSuchKey":
                    kind = PreconditionFailed if code == "PreconditionFailed" else StoreError
                    stayed[key] = kind(
                        error_code(code, "InternalError"),
                        operation="DeleteObjects",
                        key=key,
                        message=words(error.get("Message") or ""),
                    )
        return stayed

    async def list(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        token: str | None = None,
        start_after: str = "",
        limit: int = FULL_PAGE,
        on_token: OnToken | None = None,
    ) -> ListPage:
        return await self._listings.page(
            prefix,
            delimiter=delimiter,
            token=token,
            start_after=start_after,
            limit=limit,
            on_token=on_token,
        )

    async def create_upload(self, key: str, headers: Headers, *, copies: bool = False) -> str:
        opening = self._sums.opening(copies=copies)
        params = {**self._new, **self._described(headers), **_tagging(headers), **opening}
        answer = await self._call("CreateMultipartUpload", key, self._object, Key=key, **params)
        upload_id: str = answer.get("UploadId", "")
        if not upload_id:
            raise unusable("CreateMultipartUpload", key, "no upload in the answer")
        self._sums.opened(upload_id, opening, headers.metadata)
        return upload_id

    async def upload_part(self, key: str, upload_id: str, number: int, body: Body) -> str:
        carried, sums = await self._sums.outfit(body, upload_id)
        part: _Params = {"Key": key, "UploadId": upload_id, "PartNumber": number}
        answer = await self._call("UploadPart", key, self._object, **part, **carried)
        etag = unquote(headers_of(answer).get("etag"))
        if not etag:
            self._provider.miss_etags()
            raise Unsupported("NoETag", operation="UploadPart", key=key)
        self._sums.sent(key, upload_id, number, etag, sums)
        return etag

    async def copy_part(
        self,
        key: str,
        upload_id: str,
        number: int,
        *,
        source: str,
        start: int,
        stop: int,
        source_if_match: str = "",
    ) -> str:
        answer = await self._call(
            "UploadPartCopy",
            key,
            self._copied,
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            CopySource={"Bucket": self._config.bucket, "Key": source},
            CopySourceRange=f"bytes={start}-{stop - 1}",
            **self._source_condition(source_if_match),
        )
        result = answer.get("CopyPartResult", {})
        etag = unquote(result.get("ETag"))
        if not etag:
            raise Unsupported("NoETag", operation="UploadPartCopy", key=key)
        self._sums.copied(upload_id, number, result)
        return etag

    async def complete(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        *,
        size: int,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectInfo:
        try:
            answer = await self._call(
                "CompleteMultipartUpload",
                key,
                self._object,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": self._sums.listed(upload_id, parts)},
                **self._target_condition("complete", if_match, if_none_match),
            )
        except PreconditionFailed as exc:
            raise taken(exc) if if_none_match else exc from None
        named = unquote(answer.get("ETag"))
        try:
            # Ceph names no ETag, nobody names a size, and some gateways lose copied parts.
            found = await self.head(key)
            return self._sums.completed(
                found, upload_id=upload_id, named=named, parts=parts, size=size
            )
        except StoreError as exc:
            etag = named or multipart_etag([etag for _, etag in parts])
            if not (is_denied(exc) and etag):
                raise
            return ObjectInfo(key, size, etag, 0)  # who may only write may not look
        finally:
            self._sums.closed(upload_id)

    async def abort(self, key: str, upload_id: str) -> None:
        try:
            await self._call("AbortMultipartUpload", key, self._always, Key=key, UploadId=upload_id)
            self._sums.closed(upload_id)
        except NotFound as exc:
            if exc.code == "NoSuchBucket":
                raise

    async def list_uploads(self, prefix: str) -> Sequence[UploadInfo]:
        return await self._listings.uploads(prefix)

    async def list_versions(
        self,
        prefix: str,
        *,
        delimiter: str = "/",
        markers: tuple[str, str] | None = None,
        limit: int = FULL_PAGE,
    ) -> VersionPage:
        """As `Listings.page_of_versions`."""
        return await self._listings.page_of_versions(
            prefix, delimiter=delimiter, markers=markers, limit=limit
        )

    async def versions(self, key: str) -> Sequence[ObjectVersion]:
        return await self._listings.versions(key)

    async def restore_version(self, key: str, version_id: str) -> ObjectInfo:
        source = {"Bucket": self._config.bucket, "Key": key, "VersionId": version_id}
        await self._call("CopyObject", key, self._copied, Key=key, CopySource=source, **self._new)
        return await self.head(key)

    async def restore_archived(self, key: str, *, days: int, tier: str) -> None:
        wanted = {"Days": days, "GlacierJobParameters": {"Tier": tier}}
        await self._call("RestoreObject", key, self._always, Key=key, RestoreRequest=wanted)

    async def keeps_versions(self) -> bool:
        """Whether the bucket keeps, or once kept, old versions."""
        answer = await self._call("GetBucketVersioning", "", self._always)
        return bool(answer.get("Status"))

    async def details(self, key: str, *, version: str = "") -> Mapping[str, str]:
        """As `Store.details`, of this version of the object if one is named."""
        params = {**_of_version(key, version), "ChecksumMode": "ENABLED"}
        answer = await self._call("HeadObject", key, self._object, **params)
        return details(headers_of_object(headers_of(answer), "HeadObject", key))

    async def tags(self, key: str, *, version: str = "") -> Mapping[str, str]:
        """As `Store.tags`, of this version of the object if one is named."""
        params = _of_version(key, version)
        answer = await self._call("GetObjectTagging", key, self._always, **params)
        return {str(tag["Key"]): str(tag["Value"]) for tag in answer.get("TagSet", [])}

    async def set_tags(self, key: str, tags: Mapping[str, str]) -> None:
        if not tags:
            await self._call("DeleteObjectTagging", key, self._always, Key=key)
            return
        tag_set = [{"Key": name, "Value": value} for name, value in tags.items()]
        await self._call(
            "PutObjectTagging", key, self._always, Key=key, Tagging={"TagSet": tag_set}
        )

    async def presigned_url(self, key: str, seconds: int, *, version: str = "") -> str:
        """As `Store.presigned_url`, of this version of the object if one is named."""
        params = {**self._object, **_of_version(key, version)}
        return await self._connection.presigned_url(params, seconds)

    async def foresee(self, operation: Foreseen, key: str) -> None:  # noqa: ARG002
        return

    async def follow(self, prefix: str, hear: Hear) -> None:
        if not self.capabilities.feed:
            raise Unsupported("NotImplemented", operation=OPERATION)
        try:
            await listen(self._connection.client, self._always, prefix, hear)
        except Unsupported:
            self._provider.learn(feed=False)
            raise
        except StoreError as failure:
            if failure.code != "SignatureDoesNotMatch":
                raise
            await self.check()  # fails, too, if it is for the keys
            # Ceph does not count a second value of one name, as ``events`` has, as signed
            self._provider.learn(feed=False)
            raise failure.recast(Unsupported) from None

    async def check(self) -> bool:
        page = await self.list(self._config.prefix, limit=1)
        return not page.shows_nothing

    async def settle(self, *_conditions: str) -> Capabilities:
        return self.capabilities

    async def _call(self, operation: str, key: str, common: _Params, **params: Any) -> Any:
        """One request. Raises StoreError and nothing else."""
        try:
            key.encode()
        except UnicodeEncodeError:
            raise StoreError("InvalidUtf8", operation=operation, key=key) from None
        try:
            return await self._connection.request(operation, {**common, **params})
        except (BotoCoreError, ClientError, ResponseParserError) as exc:
            failure = translate(exc, operation, key)
            raise (unsigned(failure) if self._config.signature_v2 else failure) from None

    def _condition(self, if_match: str) -> _Params:
        if if_match and is_etag(if_match):
            return {"IfMatch": self._provider.quote(if_match)}
        return {}

    def _target_condition(self, kind: str, if_match: str, if_none_match: bool) -> _Params:
        """The condition on what a request replaces, where the endpoint is not known to lack it."""
        if if_none_match:
            return {"IfNoneMatch": "*"} if self._provider.carries(f"{kind}_if_none_match") else {}
        return self._condition(if_match) if self._provider.carries(f"{kind}_if_match") else {}

    def _described(self, headers: Headers) -> _Params:
        can = self.capabilities
        if not can.descriptions:
            headers = Headers(headers.metadata)
        if not (can.user_metadata or headers.essential):
            headers = Headers({}, headers.content_type, headers.other)
        return header_params(headers)

    def _kept(self, headers: Headers | None) -> Mapping[str, str]:
        """The metadata that an object with these headers has, as far as the endpoint is known."""
        unknown = self._provider.is_unseen("user_metadata") or not self.capabilities.user_metadata
        return {} if headers is None or unknown else headers.metadata

    def _choose_sum(self, params: dict[str, Any], **_: object) -> None:
        """Have DeleteObjects, which must carry a sum, carry the one that the endpoint takes."""
        if not self.capabilities.delete_crc:
            params["context"]["checksum"] = {}
            digest = hashlib.md5(params["body"], usedforsecurity=False).digest()
            params["headers"]["Content-MD5"] = base64.b64encode(digest).decode()

    def _source_condition(self, if_match: str) -> _Params:
        if if_match and is_etag(if_match) and self.capabilities.copy_condition:
            return {"CopySourceIfMatch": f'"{if_match}"'}
        return {}

    def _versioned(self, info: ObjectInfo) -> ObjectInfo:
        """What an answer says of an object, with something to tell its version by."""
        if not (info.etag or _is_directory(info)):
            self._provider.miss_etags()
        return with_version(info, etags=self.capabilities.etags)


def _is_directory(info: ObjectInfo) -> bool:
    """Whether an object is a directory's; s3proxy finds one under ``d``, too, and names no ETag."""
    kind = info.headers.content_type if info.headers is not None else ""
    return info.key.endswith("/") or (info.size == 0 and kind == "application/x-directory")


def _tagging(headers: Headers) -> _Params:
    return {"Tagging": headers.tags} if headers.tags else {}


def _of_version(key: str, version: str) -> _Params:
    return {"Key": key, **({"VersionId": version} if version else {})}
