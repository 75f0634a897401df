"""A second user who may do what a policy says: on a real gateway, or made up by a proxy.

The policies are those of ``docs/permissions.md``, as they stand there. A gateway is given them as
the bucket's; before moto, which refuses nobody, a proxy answers as S3 would.

``BUCKETFS_TEST_SECOND`` names the second user of a real endpoint,
``ACCESS_KEY SECRET_KEY ARN``, and after that the ARN of the user to whom the buckets belong.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

import pytest

from tests.harness.endpoint import REPOSITORY
from tests.harness.http import Request
from tests.harness.proxy import proxy
from tests.harness.witness import Witness

_SECTION: Final = re.compile(r"^## (.+?)\n(.*?)```json\n(.*?)```", re.MULTILINE | re.DOTALL)

#: What S3 wants for an operation: actions on the object, and on the bucket.
_ON_OBJECT: Final = {
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CopyObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
}
_ON_BUCKET: Final = {
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
}


def policies() -> Mapping[str, Any]:
    """The policies of the documentation, by heading."""
    text = (REPOSITORY / "docs" / "permissions.md").read_text(encoding="utf-8")
    return {heading: json.loads(policy) for heading, _, policy in _SECTION.findall(text)}


@dataclass(frozen=True)
class Policy:
    """A policy on one bucket."""

    statements: list[dict[str, Any]]

    @classmethod
    def of(cls, use: str, bucket: str) -> Policy:
        text = json.dumps(policies()[use]["Statement"]).replace("BUCKET", bucket)
        return cls(json.loads(text))

    def for_bucket(self, bucket: str, arn: str, owner: str) -> str:
        """As the policy of the bucket; its owner may do all, also with what the other stores."""
        principal = {"Principal": {"AWS": [arn]}}
        statements = [{**statement, **principal} for statement in self.statements]
        everything = {
            "Effect": "Allow",
            "Principal": {"AWS": [owner]},
            "Action": "s3:*",
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        }
        return json.dumps({"Version": "2012-10-17", "Statement": [*statements, everything]})

    def allows(self, action: str, resource: str, prefix: str | None = None) -> bool:
        return any(
            action in _listed(statement["Action"])
            and any(fnmatchcase(resource, one) for one in _listed(statement["Resource"]))
            and _holds(statement.get("Condition"), prefix)
            for statement in self.statements
        )

    def refuses(self, request: Request, bucket: Witness) -> bool:
        """Whether S3 would answer 403."""
        whole = f"arn:aws:s3:::{bucket.name}"
        if request.operation in _ON_BUCKET:
            action, prefix = _ON_BUCKET[request.operation], request.query.get("prefix", "")
            return not self.allows(action, whole, prefix)
        if request.operation == "DeleteObjects":
            return not self.allows("s3:DeleteObject", whole)  # so at Ceph
        if not self.allows(_ON_OBJECT[request.operation], f"{whole}/{request.key}"):
            return True
        if request.operation in ("CopyObject", "UploadPartCopy"):
            source = request.headers["x-amz-copy-source"].lstrip("/")
            return not self.allows("s3:GetObject", f"arn:aws:s3:::{source}")
        if request.operation in ("HeadObject", "GetObject"):
            return not self.allows("s3:ListBucket", whole) and not bucket.exists(request.key)
        return False


def _has_no_upload(request: Request) -> bool:
    return request.query.get("uploadId", "").startswith("bucketfs-no-such")


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _holds(condition: Any, prefix: str | None) -> bool:
    if condition is None:
        return True
    wanted = _listed(condition["StringLike"]["s3:prefix"])
    return prefix is not None and any(fnmatchcase(prefix, one) for one in wanted)


class SecondUser:
    """A user who may do what policies of the documentation say, and no more.

    Attributes:
        bucket: As that user sees it.
    """

    def __init__(self, owned: Witness, use: str, stack: ExitStack) -> None:
        self._owned = owned
        endpoint = owned.endpoint
        self._arn = self._owner = ""
        if endpoint.moto:
            before = stack.enter_context(proxy(endpoint.url))
            refusal = before.fault(status=403, code="AccessDenied", when=self._refuses)
            stack.enter_context(refusal)
            # moto answers 500 to that
            unknown = before.fault(status=404, code="NoSuchUpload", when=_has_no_upload)
            stack.enter_context(unknown)
            self.bucket = replace(owned, endpoint=endpoint.at(before.url))
        else:
            named = os.environ.get("BUCKETFS_TEST_SECOND")
            if not named:
                pytest.skip("needs a second user (BUCKETFS_TEST_SECOND)")
            access_key, secret_key, self._arn, self._owner = named.split()
            theirs = replace(endpoint, access_key=access_key, secret_key=secret_key)
            self.bucket = replace(owned, endpoint=theirs, client=theirs.client())
        self.may(use)

    def may(self, use: str) -> None:
        """Have the policy for a use count from now on, and no other."""
        self._policy = Policy.of(use, self._owned.name)
        if self._arn:
            name = self._owned.name
            policy = self._policy.for_bucket(name, self._arn, self._owner)
            self._owned.client.put_bucket_policy(Bucket=name, Policy=policy)

    def _refuses(self, request: Request) -> bool:
        return self._policy.refuses(request, self._owned)
