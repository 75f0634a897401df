"""What the endpoint of this run can do, found out by asking it: a test says what it ``needs``.

Some servers are made of a filesystem, or leave parts of S3 out. What bucketfs cannot make up for is
a limit, and a test of it is skipped there, with the reason that is told here.
"""

from __future__ import annotations

import base64
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace

import crc32c
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.harness.endpoint import Endpoint
from tests.harness.witness import Witness

#: Clients that want one key at the same moment, and how often.
_RACERS, _RACES = 8, 20

#: Part of a multipart upload that may be followed by another.
_PART = 5 << 20


class Abilities:
    """Asks an endpoint, once for each ability."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._found: dict[str, str] = {}

    def lacking(self, ability: str) -> str:
        """Why the endpoint cannot do this, "" if it can. KeyError for what no one has named."""
        if ability not in self._found:
            ask, reason = _ABILITIES[ability]
            with _bucket(self._endpoint) as bucket:
                try:
                    able = ask(bucket)
                except (ClientError, KeyError):  # refused, or answered without what it is about
                    able = False
            self._found[ability] = "" if able else f"the server {reason}"
        return self._found[ability]


@contextmanager
def _bucket(endpoint: Endpoint) -> Iterator[Witness]:
    bucket = Witness.create(endpoint)
    try:
        yield bucket
    finally:
        # the server is there for the tests, and may not be able to
        with suppress(ClientError):
            bucket.destroy()


def _keeps_metadata(bucket: Witness) -> bool:
    bucket.put("k", b"x", two_words="a")
    return bucket.metadata("k") == {"two-words": "a"}


def _keeps_markers(bucket: Witness) -> bool:
    bucket.put("d/")
    return bucket.exists("d/") and not bucket.exists("d")


def _keeps_metadata_of_markers(bucket: Witness) -> bool:
    bucket.put("d/", b"", mode="a")
    return bucket.metadata("d/") == {"mode": "a"} and not bucket.exists("d")


def _tells_of_no_directory(bucket: Witness) -> bool:
    bucket.put("d/k", b"x")
    bucket.head("d")
    return True


def _lists_markers(bucket: Witness) -> bool:
    bucket.put("d/")
    return bucket.keys() == bucket.keys("d/") == ["d/"]


def _has_no_directories(bucket: Witness) -> bool:
    bucket.put("d/k", b"x")
    bucket.delete("d/k")
    answer = bucket.client.list_objects_v2(Bucket=bucket.name, Delimiter="/")
    return not answer.get("CommonPrefixes")


def _lists_in_order(bucket: Witness) -> bool:
    keys = ["a!", "a-", "a/1", "a0"]
    for key in keys:
        bucket.put(key, b"x")
    return bucket.keys() == keys


def _takes_any_key(bucket: Witness) -> bool:
    keys = ["/lead", "a//b", "a/../c", "a/./b"]
    for key in keys:
        bucket.put(key, key.encode())
    return set(bucket.keys()) == {*keys} and all(bucket.get(key) == key.encode() for key in keys)


def _keeps_a_key_beside_a_prefix(bucket: Witness) -> bool:
    bucket.put("f", b"1")
    bucket.put("f/x", b"2")
    bucket.put("f/")
    return (bucket.get("f"), bucket.get("f/x")) == (b"1", b"2")


class _Signer(S3SigV4Auth):
    """Signs as Amazon describes it: of all blanks, rows of spaces alone become one."""

    def _header_value(self, value: str) -> str:
        return re.sub(" +", " ", value.strip(" "))


def _put(bucket: Witness, body: bytes, *, signed: bytes, **headers: str) -> bool:
    """Whether the server takes an object whose signature is for the bytes in `signed`."""
    endpoint = bucket.endpoint
    request = AWSRequest("PUT", f"{endpoint.url}/{bucket.name}/k", headers, signed)
    keys = Credentials(endpoint.access_key, endpoint.secret_key)
    _Signer(keys, "s3", endpoint.region).add_auth(request)
    # as http.client wants the bytes of UTF-8
    sent_headers = {
        name: value.encode().decode("latin-1") for name, value in request.headers.items()
    }
    sent = urllib.request.Request(request.url, data=body, headers=sent_headers, method="PUT")
    try:
        with urllib.request.urlopen(sent):
            return True
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return False


def _signs_blanks(bucket: Witness) -> bool:
    return _put(bucket, b"", signed=b"", **{"x-amz-meta-a": "tab\tinside"})


def _keeps_text(bucket: Witness) -> bool:
    """Boto3 itself sends no such value."""
    put = _put(bucket, b"", signed=b"", **{"x-amz-meta-a": "ü"})
    return put and "?" not in bucket.metadata("k")["a"]


def _takes_checksums(bucket: Witness) -> bool:
    checksum = base64.b64encode(crc32c.crc32c(b"x").to_bytes(4, "big")).decode()
    what = {"Key": "k", "Body": b"x", "ChecksumCRC32C": checksum}
    return bool(bucket.client.put_object(Bucket=bucket.name, **what))


def _takes_parts_without_their_sums(bucket: Witness) -> bool:
    where = {"Bucket": bucket.name, "Key": "k"}
    upload = bucket.client.create_multipart_upload(**where, ChecksumAlgorithm="CRC32C")
    upload_id = {"UploadId": upload["UploadId"]}
    part = bucket.client.upload_part(**where, **upload_id, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    bucket.client.complete_multipart_upload(**where, **upload_id, MultipartUpload=parts)
    return True


def _takes_a_full_name(bucket: Witness) -> bool:
    bucket.put("n" * 255, b"x")
    bucket.put("/".join(["k" * 200] * 5), b"x")
    return True


def _refuses_longer_keys(bucket: Witness) -> bool:
    try:
        bucket.put("k" * 1025, b"x")
    except ClientError:
        return True
    return False


def _takes_full_metadata(bucket: Witness) -> bool:
    bucket.put("k", b"", a="v" * 2000)
    return bucket.metadata("k") == {"a": "v" * 2000}


def _compares_signed_sums(bucket: Witness) -> bool:
    return not _put(bucket, b"evil", signed=b"good")


def _refused(bucket: Witness, key: str, **condition: str) -> bool:
    try:
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"2", **condition)
    except ClientError as exc:
        return bool(exc.response["ResponseMetadata"]["HTTPStatusCode"] == 412)
    return False


def _honours_conditions(bucket: Witness) -> bool:
    bucket.put("k", b"1")
    false = [{"IfNoneMatch": "*"}, {"IfMatch": "0" * 32}]
    return all(_refused(bucket, "k", **condition) for condition in false)


def _lets_one_win(bucket: Witness, *, marker: str) -> bool:
    def take(key: str, gate: threading.Barrier) -> bool:
        client = bucket.endpoint.client()
        gate.wait()
        try:
            client.put_object(Bucket=bucket.name, Key=key, Body=b"", IfNoneMatch="*")
        except ClientError:
            return False
        return True

    for number in range(_RACES):
        gate = threading.Barrier(_RACERS)
        with ThreadPoolExecutor(_RACERS) as pool:
            taken = [pool.submit(take, f"k{number}{marker}", gate) for _ in range(_RACERS)]
            if sum(one.result() for one in taken) != 1:
                return False
    return True


def _copies_parts(bucket: Witness) -> bool:
    bucket.put("a", os.urandom(_PART))
    where = {"Bucket": bucket.name, "Key": "b"}
    upload = bucket.client.create_multipart_upload(**where)["UploadId"]
    part = {"UploadId": upload, "PartNumber": 1}
    source = {"CopySource": {"Bucket": bucket.name, "Key": "a"}, "CopySourceRange": "bytes=0-9"}
    answer = bucket.client.upload_part_copy(**where, **part, **source)
    bucket.client.abort_multipart_upload(**where, UploadId=upload)
    return bool(answer["CopyPartResult"]["ETag"])


def _keeps_tags(bucket: Witness) -> bool:
    bucket.put("k", b"x")
    tag = {"Key": "a", "Value": "b"}
    bucket.client.put_object_tagging(Bucket=bucket.name, Key="k", Tagging={"TagSet": [tag]})
    answer = bucket.client.get_object_tagging(Bucket=bucket.name, Key="k")
    # some take the tags for the object
    return bool(answer["TagSet"] == [tag]) and bucket.get("k") == b"x"


def _keeps_tags_of_markers(bucket: Witness) -> bool:
    bucket.put("d/")
    tag = {"Key": "a", "Value": "b"}
    bucket.client.put_object_tagging(Bucket=bucket.name, Key="d/", Tagging={"TagSet": [tag]})
    answer = bucket.client.get_object_tagging(Bucket=bucket.name, Key="d/")
    return bool(answer["TagSet"] == [tag])


def _lists_versions_of_others(bucket: Witness) -> bool:
    bucket.put(".versions/k", b"x")
    return bucket.keys() == [".versions/k"]


def _refuses_gone_buckets(bucket: Witness) -> bool:
    bucket.client.delete_bucket(Bucket=bucket.name)
    try:
        bucket.put("k", b"x")
    except ClientError:
        return True
    return False


def _knows_own_buckets(bucket: Witness) -> bool:
    """us-east-1 says that all is well, other regions that it is yours."""
    try:
        bucket.client.create_bucket(Bucket=bucket.name)
    except ClientError as exc:
        return bool(exc.response["Error"]["Code"] == "BucketAlreadyOwnedByYou")
    return True


def _tells_of_unknown_keys(bucket: Witness) -> bool:
    stranger = replace(bucket.endpoint, secret_key="wrong" * 8)
    try:
        stranger.client().list_objects_v2(Bucket=bucket.name)
    except ClientError as exc:
        return bool(exc.response["Error"]["Code"] != "AccessDenied")
    return True


def _has_plain_keys(bucket: Witness) -> bool:
    return ":" not in bucket.endpoint.access_key


def _begin(bucket: Witness, *parts: bytes) -> dict[str, str]:
    """An upload of "k" with these parts, for calls of boto3."""
    where = {"Bucket": bucket.name, "Key": "k"}
    where["UploadId"] = bucket.client.create_multipart_upload(**where)["UploadId"]
    for number, body in enumerate(parts, 1):
        bucket.client.upload_part(**where, PartNumber=number, Body=body)
    return where


def _complete(bucket: Witness, upload: dict[str, str]) -> None:
    listed = bucket.client.list_parts(**upload)["Parts"]
    parts = [{"PartNumber": one["PartNumber"], "ETag": one["ETag"]} for one in listed]
    bucket.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})


def _lists_no_parts(bucket: Witness) -> bool:
    upload = _begin(bucket, b"part")
    listed = bucket.keys()
    bucket.client.abort_multipart_upload(**upload)
    return listed == []


def _refuses_small_parts(bucket: Witness) -> bool:
    upload = _begin(bucket, b"small", b"small")
    try:
        _complete(bucket, upload)
    except ClientError:
        bucket.client.abort_multipart_upload(**upload)
        return True
    return False


def _compares_md5(bucket: Witness) -> bool:
    upload = _begin(bucket)
    wrong = base64.b64encode(bytes(16)).decode()
    with suppress(ClientError):
        bucket.client.upload_part(**upload, PartNumber=1, Body=b"x", ContentMD5=wrong)
        return False
    bucket.client.upload_part(**upload, PartNumber=1, Body=b"x")
    _complete(bucket, upload)
    return True


def _has_an_archive(bucket: Witness) -> bool:
    where = {"Bucket": bucket.name, "Key": "k"}
    bucket.client.put_object(**where, Body=b"cold", StorageClass="GLACIER")
    try:
        bucket.client.get_object(**where)
    except ClientError:
        return True
    return False


def _versions(bucket: Witness) -> bool:
    bucket.versioning()
    old = bucket.client.put_object(Bucket=bucket.name, Key="k", Body=b"1")["VersionId"]
    bucket.put("k", b"2")
    answer = bucket.client.get_object(Bucket=bucket.name, Key="k", VersionId=old)
    found = bool(answer["Body"].read() == b"1")
    bucket.forget_versions()
    return found


#: How to find out, and what a server that cannot does instead.
_ABILITIES: dict[str, tuple[Callable[[Witness], bool], str]] = {
    "metadata": (_keeps_metadata, "keeps no user metadata"),
    "marker_metadata": (_keeps_metadata_of_markers, "keeps no metadata of directories"),
    "kept_markers": (_keeps_markers, "finds d where d/ is asked for, or the other way round"),
    "directories": (_tells_of_no_directory, "fails where the name of a directory is asked for"),
    "markers": (_lists_markers, "does not list a marker under its own key"),
    "no_directories": (_has_no_directories, "has directories, which stay when they are empty"),
    "order": (_lists_in_order, "lists in another order than that of the keys"),
    "any_key": (_takes_any_key, "changes or refuses keys with //, a leading slash, . or .."),
    "beside": (_keeps_a_key_beside_a_prefix, "cannot keep f beside f/ and f/x"),
    "blanks": (_signs_blanks, "signs blanks in metadata in its own way"),
    "text": (_keeps_text, "changes metadata that is not ASCII"),
    "checksums": (_takes_checksums, "refuses checksums"),
    "unsummed_parts": (
        _takes_parts_without_their_sums,
        "wants a checksum of each part of an upload that was begun with one",
    ),
    "full_names": (_takes_a_full_name, "refuses names of 255 bytes or keys of 1,004"),
    "key_limit": (_refuses_longer_keys, "takes keys of more than 1,024 bytes"),
    "full_metadata": (_takes_full_metadata, "refuses 2,000 bytes of metadata"),
    "signed_sums": (_compares_signed_sums, "takes other bytes than those that were signed"),
    "conditions": (_honours_conditions, "honours no conditions of PutObject"),
    "one_winner": (lambda b: _lets_one_win(b, marker=""), "lets many of one key's makers win"),
    "one_marker": (lambda b: _lets_one_win(b, marker="/"), "lets many make one directory"),
    "copied_parts": (_copies_parts, "copies no parts"),
    "hidden_parts": (_lists_no_parts, "lists the parts of unfinished uploads"),
    "part_limit": (_refuses_small_parts, "takes parts of less than 5 MiB"),
    "md5": (_compares_md5, "ends an upload with the first part whose MD5 is wrong"),
    "archive": (_has_an_archive, "reads what is archived"),
    "tags": (_keeps_tags, "keeps no tags"),
    "marker_tags": (_keeps_tags_of_markers, "keeps no tags of directories"),
    "dot_versions": (_lists_versions_of_others, "hides what is below a name in .versions"),
    "gone_buckets": (_refuses_gone_buckets, "makes a bucket for what is put into none"),
    "own_buckets": (_knows_own_buckets, "says of one's own buckets that others have them"),
    "told_keys": (_tells_of_unknown_keys, "says AccessDenied where keys are wrong"),
    "plain_keys": (_has_plain_keys, "has colons in its keys, which lines of keys cannot have"),
    "versions": (_versions, "keeps no versions"),
}
