"""Figures of a mount, asked for as Prometheus does, beside what really went over the wire."""

from __future__ import annotations

import re
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from contextlib import closing
from http import HTTPStatus

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bucketfs.cli import main
from tests.harness.mounts import Mount, Mounts
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

#: The kernel chooses the port.
ANY = "metrics=127.0.0.1:0"
Found = dict[str, list[tuple[dict[str, str], float]]]


def address(mount: Mount) -> str:
    found = re.findall(r"metrics are at (http://127\.0\.0\.1:\d+)/metrics", mount.log.read_text())
    return str(found[-1])


def get(url: str) -> tuple[str, str]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def scrape(mount: Mount) -> Found:
    text, kind = get(f"{address(mount)}/metrics")
    assert kind.startswith("text/plain; version=0.0.4")
    found: Found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels.pop("mount") == str(mount.path)
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def one(found: Found, name: str, **labels: str) -> float:
    return sum(value for has, value in found.get(name, []) if labels.items() <= has.items())


def by_operation(found: Found, name: str) -> dict[str, float]:
    return {labels["operation"]: value for labels, value in found[name]}


class TestFigures:
    def test_requests_are_those_that_the_endpoint_saw(
        self, bucket: Witness, mount: Mounts, counted: Proxy
    ) -> None:
        """Also those that failed and were sent again."""
        counted.clear()
        made = mount(bucket, ANY, "open_ttl=60", url=counted.url)
        with counted.fault("GetObject", times=1, status=503, code="SlowDown"):
            bucket.put("there", b"x" * 300_000)
            assert len((made.path / "there").read_bytes()) == 300_000
        for number in range(3):
            (made.path / f"f{number}").write_bytes(b"1234567")
        (made.path / "f0").unlink()
        with pytest.raises(FileNotFoundError):
            (made.path / "missing").stat()
        until(lambda: not bucket.exists("f0"), "the removal")
        found = scrape(made)
        seen = Counter(counted.counts())
        told = by_operation(found, "bucketfs_requests_total")
        # what asks whether the bucket is there goes by a name of its own
        seen["Check"] = int(told["Check"])
        seen["ListObjectsV2"] -= seen["Check"]
        assert told == {name: count for name, count in seen.items() if count}
        ended = by_operation(found, "bucketfs_request_duration_seconds_count")
        assert ended == told
        assert one(found, "bucketfs_request_errors_total", code="SlowDown") == 1
        assert one(found, "bucketfs_request_retries_total", operation="GetObject") == 1
        assert one(found, "bucketfs_received_bytes_total") == 300_000
        assert one(found, "bucketfs_sent_bytes_total") == sum(
            request.sent
            for request in counted.requests
            if request.operation == "PutObject" and request.status == HTTPStatus.OK
        )

    def test_what_programs_do(self, bucket: Witness, mount: Mounts) -> None:
        bucket.put("there", b"x" * 3_000_000)
        made = mount(bucket, ANY)
        with (made.path / "there").open("rb") as file:
            assert len(file.read()) == 3_000_000
            assert one(scrape(made), "bucketfs_open_files") == 1
        (made.path / "new").write_bytes(b"1")
        with pytest.raises(FileNotFoundError):
            (made.path / "missing").stat()
        found = scrape(made)
        read = one(found, "bucketfs_cache_hit_bytes_total") + one(
            found, "bucketfs_cache_miss_bytes_total"
        )
        assert read == 3_000_000
        assert one(found, "bucketfs_cache_miss_bytes_total") > 0
        assert one(found, "bucketfs_operations_total", operation="create", result="ok") == 1
        assert one(found, "bucketfs_operations_total", operation="write") == 1
        assert one(found, "bucketfs_operation_duration_seconds_count", operation="create") == 1
        assert one(found, "bucketfs_uploaded_files_total") == 1
        assert one(found, "bucketfs_unsaved_files") == 0
        assert one(found, "bucketfs_cache_size_bytes") > 2_000_000
        assert 10 << 20 < one(found, "bucketfs_resident_memory_bytes") < 1 << 30
        info = found["bucketfs_info"][0][0]
        assert info["bucket"] == bucket.name
        assert info["endpoint"] == bucket.endpoint.url

    def test_the_command_says_the_same(
        self, bucket: Witness, mount: Mounts, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made = mount(bucket, ANY)
        (made.path / "file").write_bytes(b"1")
        assert main.main(["bucketfs", "status", "--prometheus", str(made.path)]) == 0
        printed, served = capsys.readouterr().out, get(f"{address(made)}/metrics")[0]
        names = [re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE) for text in (printed, served)]
        assert names[0] == names[1]
        line = re.compile(r'^bucketfs_operations_total\{.*"create".*', re.MULTILINE)
        assert line.findall(printed) == line.findall(served) != []

    def test_conflicts_are_counted(self, bucket: Witness, mount: Mounts) -> None:
        bucket.put("both", b"old")
        made = mount(bucket, ANY, "conflict=overwrite")
        with (made.path / "both").open("r+b") as file:
            file.write(b"ours")
            bucket.put("both", b"theirs")
        assert one(scrape(made), "bucketfs_conflicts_total") == 1
        assert bucket.get("both") == b"ours"

    def test_what_waits(self, bucket: Witness, mount: Mounts, counted: Proxy) -> None:
        made = mount(bucket, ANY, "writeback", url=counted.url)
        with counted.fault("PutObject", status=403, code="AccessDenied"):
            (made.path / "late").write_bytes(b"12345")
            until(lambda: one(scrape(made), "bucketfs_failing_files") == 1, "a failed upload")
            found = scrape(made)
            assert one(found, "bucketfs_unsaved_bytes") == 5
            assert one(found, "bucketfs_oldest_unsaved_timestamp_seconds") > 1e9
            assert one(found, "bucketfs_upload_failures_total") >= 1
            assert one(found, "bucketfs_request_errors_total", code="AccessDenied") >= 1
        until(lambda: bucket.exists("late"), "the upload")


class TestServer:
    def test_pages(self, bucket: Witness, mount: Mounts) -> None:
        made = mount(bucket, ANY)
        at = address(made)
        assert get(f"{at}/healthz")[0] == "mounted\n"
        assert get(f"{at}/metrics?name=x")[0].startswith("# HELP bucketfs_up")
        for path, method, status in (
            ("/", "GET", HTTPStatus.NOT_FOUND),
            ("/metrics/", "GET", HTTPStatus.NOT_FOUND),
            ("/metrics", "POST", HTTPStatus.METHOD_NOT_ALLOWED),
            ("/healthz", "DELETE", HTTPStatus.METHOD_NOT_ALLOWED),
        ):
            request = urllib.request.Request(at + path, method=method)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=10)
            assert caught.value.code == status
            caught.value.close()

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"\r\n\r\n", 400),
            (b"GET /metrics\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 9000, 431),
            (b"get /metrics HTTP/1.1\r\n\r\n", 405),
        ],
    )
    def test_nonsense(self, bucket: Witness, mount: Mounts, sent: bytes, status: int) -> None:
        made = mount(bucket, ANY)
        host, port = address(made).removeprefix("http://").split(":")
        with closing(socket.create_connection((host, int(port)), timeout=10)) as client:
            client.sendall(sent)
            assert client.recv(100).startswith(f"HTTP/1.1 {status} ".encode())
        assert get(f"{address(made)}/healthz")[0] == "mounted\n"

    def test_clients_that_say_nothing_keep_nobody_out_for_long(
        self, bucket: Witness, mount: Mounts
    ) -> None:
        made = mount(bucket, ANY)
        host, port = address(made).removeprefix("http://").split(":")
        silent = [socket.create_connection((host, int(port)), timeout=30) for _ in range(30)]
        try:
            with pytest.raises(urllib.error.HTTPError, match="503"):
                get(f"{address(made)}/metrics")
            (made.path / "works").write_bytes(b"1")
            assert silent[0].recv(1) == b""  # after five seconds
            until(lambda: bool(get(f"{address(made)}/healthz")[0]), "an answer")
        finally:
            for client in silent:
                client.close()

    def test_many_at_once(self, bucket: Witness, mount: Mounts) -> None:
        made = mount(bucket, ANY)
        texts: list[str] = []

        def ask() -> None:
            texts.append(get(f"{address(made)}/metrics")[0])

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(texts) == 8

    def test_a_port_that_is_taken(self, bucket: Witness, mount: Mounts) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            made = mount(bucket, f"metrics={port}", start=False)
            with pytest.raises(AssertionError, match="bucketfs ended: 1"):
                made.start()
        assert f"metrics=127.0.0.1:{port}: Address already in use" in made.log.read_text()
        assert not made.path.is_mount()
        made.start()
        assert get(f"http://127.0.0.1:{port}/healthz")[0] == "mounted\n"

    def test_nobody_listens_unless_asked_to(self, bucket: Witness, mount: Mounts) -> None:
        made = mount(bucket)
        assert "metrics are at" not in made.log.read_text()
