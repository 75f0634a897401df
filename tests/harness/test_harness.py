"""The harness itself: a test tool that lies is worse than none."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import boto3
import pytest
import trio
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.harness.endpoint import REPOSITORY, Endpoint
from tests.harness.proxy import Proxy, proxy
from tests.harness.witness import Witness


@pytest.fixture
def through(bucket: Witness, counted: Proxy) -> Witness:
    """The bucket by way of the proxy, without boto3's retries."""
    client = bucket.endpoint.at(counted.url).client()
    client.meta.config.retries["total_max_attempts"] = 1
    return Witness(bucket.endpoint.at(counted.url), bucket.name, client)


@pytest.fixture
def once(endpoint: Endpoint, bucket: Witness) -> Iterator[tuple[Proxy, Witness]]:
    """A proxied client that asks once and waits a second."""
    with proxy(endpoint.url) as running:
        client = boto3.client(
            "s3",
            endpoint_url=running.url,
            aws_access_key_id=endpoint.access_key,
            aws_secret_access_key=endpoint.secret_key,
            region_name=endpoint.region,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                read_timeout=1,
                request_checksum_calculation="when_required",
            ),
        )
        yield running, Witness(endpoint.at(running.url), bucket.name, client)


def test_operations_are_named(through: Witness, counted: Proxy) -> None:
    through.put("a b+c%/ü", b"x" * 1000)
    assert (counted.requests[-1].operation, counted.requests[-1].key) == ("PutObject", "a b+c%/ü")
    through.get("a b+c%/ü")
    through.head("nope")
    through.keys()
    where = {"Bucket": through.name, "Key": "copy"}
    through.client.copy_object(**where, CopySource={"Bucket": through.name, "Key": "a b+c%/ü"})
    through.multipart("m", [bytes(5 << 20), b"x"])
    through.uploads()
    upload = through.client.create_multipart_upload(**where)["UploadId"]
    source = {"Bucket": through.name, "Key": "m"}
    through.client.upload_part_copy(**where, UploadId=upload, PartNumber=1, CopySource=source)
    through.client.abort_multipart_upload(**where, UploadId=upload)
    through.client.delete_objects(Bucket=through.name, Delete={"Objects": [{"Key": "m"}]})
    through.delete("copy")
    assert counted.counts() == {
        "PutObject": 1,
        "GetObject": 1,
        "HeadObject": 1,
        "ListObjectsV2": 1,
        "CopyObject": 1,
        "CreateMultipartUpload": 2,
        "UploadPart": 2,
        "CompleteMultipartUpload": 1,
        "ListMultipartUploads": 1,
        "UploadPartCopy": 1,
        "AbortMultipartUpload": 1,
        "DeleteObjects": 1,
        "DeleteObject": 1,
    }
    sent = [r.sent for r in counted.requests if r.operation == "UploadPart"]
    assert sent == [5 << 20, 1]


def test_faults_answer_an_s3_error(once: tuple[Proxy, Witness], bucket: Witness) -> None:
    running, client = once
    with running.fault("PutObject", status=403, code="AccessDenied", skip=1, times=1) as fault:
        client.put("first", b"1")
        with pytest.raises(ClientError, match="AccessDenied"):
            client.put("second", b"2" * 300_000)
        client.put("third", b"3")
        assert fault.struck == 1
    assert bucket.keys() == ["first", "third"]


def test_faults_drop_connections(once: tuple[Proxy, Witness], bucket: Witness) -> None:
    running, client = once
    for when, stored in (("before", False), ("after", True)):
        with running.fault("PutObject", reset=when), pytest.raises(BotoCoreError):
            client.put(when, b"x")
        assert bucket.exists(when) is stored


def test_faults_cut_bodies_and_stall(once: tuple[Proxy, Witness], bucket: Witness) -> None:
    running, client = once
    bucket.put("k", bytes(100_000))
    with running.fault("GetObject", truncate=1000), pytest.raises(BotoCoreError):
        client.get("k")
    with running.fault(key="k", stall=True), pytest.raises(BotoCoreError):
        client.get("k")
    assert len(client.get("k")) == 100_000


def test_a_lifted_stall_ends_the_wait(once: tuple[Proxy, Witness]) -> None:
    running, client = once
    outcome: list[BaseException] = []

    def ask() -> None:
        try:
            client.head("k")
        except BotoCoreError as exc:
            outcome.append(exc)

    with running.fault("HeadObject", stall=True) as fault:
        thread = threading.Thread(target=ask)
        thread.start()
        while not fault.struck:
            time.sleep(0.001)
    thread.join(5)
    assert outcome


def test_the_watchdog_frees_a_hanging_test() -> None:
    """In a pytest of its own: a test that waits for ever fails soon, with the rest of the run."""
    code = (
        "import pytest, threading\n"
        "@pytest.mark.time_limit(1)\n"
        "def test_hangs(): threading.Event().wait()\n"
        "def test_runs_on(): pass\n"
    )
    directory = REPOSITORY / "tests" / "harness"
    path = directory / "test_generated_hang.py"
    path.write_text(code)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    finally:
        path.unlink()
    assert "Overdue" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_server_that_is_of_no_use_ends_the_run(workers: str) -> None:
    path = REPOSITORY / "tests" / "store" / "test_conformance.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", workers, str(path)],
        cwd=REPOSITORY,
        env={**os.environ, "BUCKETFS_TEST_URL": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    assert "http://127.0.0.1:1 (BUCKETFS_TEST_URL) is of no use" in done.stdout + done.stderr


async def test_coroutine_tests_run_under_trio() -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.mock_clock
async def test_virtual_time_passes_at_once() -> None:
    before = time.monotonic()
    await trio.sleep(10_000)
    assert time.monotonic() - before < 5
