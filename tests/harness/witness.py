"""A bucket as boto3 sees it: the independent witness of what bucketfs did to it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from tests.harness.endpoint import Endpoint
from tests.harness.waiting import until

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Witness:
    """One bucket, its endpoint and a client of its own."""

    endpoint: Endpoint
    name: str
    client: Any = field(repr=False)

    @classmethod
    def create(cls, endpoint: Endpoint) -> Witness:
        """A fresh bucket with a name no other run uses."""
        client = endpoint.client()
        name = f"bucketfs-test-{os.getpid()}-{os.urandom(3).hex()}-{next(_numbers)}"
        client.create_bucket(Bucket=name)
        return cls(endpoint, name, client)

    def put(
        self, key: str, body: bytes = b"", /, *, content_type: str = "", **metadata: str
    ) -> str:
        """Store an object as a foreign tool would; answers its ETag without quotes.

        Underscores in metadata names stand for dashes.
        """
        extra: dict[str, Any] = {"ContentType": content_type} if content_type else {}
        given = {name.replace("_", "-"): value for name, value in metadata.items()}
        answer = self.client.put_object(
            Bucket=self.name, Key=key, Body=body, Metadata=given, **extra
        )
        return str(answer["ETag"]).strip('"')

    def put_many(self, bodies: Mapping[str, bytes]) -> None:
        """Store many objects side by side."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: self.put(*item), bodies.items()))

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def read(self, key: str) -> tuple[bytes, dict[str, str]] | None:
        """Bytes and user metadata of one version, None when there is no such object (any more)."""
        try:
            answer = self.client.get_object(Bucket=self.name, Key=key)
        except ClientError as exc:
            if exc.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return bytes(answer["Body"].read()), dict(answer["Metadata"])

    def head(self, key: str) -> dict[str, Any] | None:
        """The answer of HeadObject, None when there is no such object."""
        try:
            return dict(self.client.head_object(Bucket=self.name, Key=key))
        except ClientError as exc:
            if exc.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise

    def exists(self, key: str) -> bool:
        return self.head(key) is not None

    def metadata(self, key: str) -> dict[str, str]:
        """User metadata of an object that must exist; HTTP does not tell cases of names apart."""
        head = self.head(key)
        assert head is not None, f"no object {key!r}"
        return {name.lower(): value for name, value in head["Metadata"].items()}

    def keys(self, prefix: str = "") -> list[str]:
        """All keys under a prefix, in the order the endpoint lists them."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.client.delete_object(Bucket=self.name, Key=key)

    def uploads(self) -> list[str]:
        """Keys of unfinished multipart uploads."""
        try:
            answer = self.client.list_multipart_uploads(Bucket=self.name)
        except ClientError as exc:
            if exc.response["Error"]["Code"] != "NoSuchUpload":
                raise
            return []  # rclone's way to say that there are none
        return [item["Key"] for item in answer.get("Uploads", [])]

    def multipart(self, key: str, parts: Iterable[bytes], **metadata: str) -> None:
        """Store an object in parts, each but the last of at least 5 MiB."""
        where = {"Bucket": self.name, "Key": key}
        upload = self.client.create_multipart_upload(**where, Metadata=metadata)["UploadId"]
        done = []
        for number, body in enumerate(parts, 1):
            answer = self.client.upload_part(**where, UploadId=upload, PartNumber=number, Body=body)
            done.append({"ETag": answer["ETag"], "PartNumber": number})
        self.client.complete_multipart_upload(
            **where, UploadId=upload, MultipartUpload={"Parts": done}
        )

    def versioning(self) -> None:
        """Have the bucket keep every version; `forget_versions` before it is destroyed."""
        self.client.put_bucket_versioning(
            Bucket=self.name, VersioningConfiguration={"Status": "Enabled"}
        )

    def forget_versions(self) -> None:
        """Delete all versions and delete markers."""
        until(lambda: not self._delete_a_page_of_versions(), "no version is left", timeout=240)

    def _delete_a_page_of_versions(self) -> bool:
        """Whether there were any. Swift says of one now and then that it has no such bucket."""
        page = self.client.list_object_versions(Bucket=self.name)
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        for one in found:
            with suppress(self.client.exceptions.NoSuchBucket):
                self.client.delete_object(
                    Bucket=self.name, Key=one["Key"], VersionId=one["VersionId"]
                )
        return bool(found)

    def destroy(self) -> None:
        """Empty and delete the bucket. It stays where a server counts directories that are none."""
        keys = self.keys()
        for at in range(0, len(keys), 500):
            # XML 1.0 cannot carry control characters: such keys are left to the loop below.
            batch = [{"Key": key} for key in keys[at : at + 500] if key.isprintable()]
            if batch:
                what = {"Objects": batch, "Quiet": True}
                # so are all of them at servers without this request
                with suppress(ClientError):
                    self.client.delete_objects(Bucket=self.name, Delete=what)
        left = self.keys()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.delete, [key for key in left if not key.endswith("/")]))
        # what is in a directory goes before it: some servers want that
        self.delete(*(key for key in reversed(left) if key.endswith("/")))
        try:
            self.client.delete_bucket(Bucket=self.name)
        except ClientError as exc:
            if exc.response["Error"]["Code"] != "BucketNotEmpty" or self.keys():
                raise
