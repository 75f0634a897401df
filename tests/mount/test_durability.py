"""The promise: what close and fsync said stands, nothing half done shows, errors are reported."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.harness.mounts import SHARED, Mount, Mounts
from tests.harness.posix import refused
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

MIB = 1 << 20

#: Retries short enough for tests.
QUICK = ("retries=1", *SHARED)


@pytest.fixture
def faulty(mount: Mounts, bucket: Witness, counted: Proxy) -> Mount:
    """A mount whose requests pass the proxy."""
    mounted = mount(bucket, *QUICK, url=counted.url)
    mounted.expected.append("made up by the proxy|could not be saved|the bytes of . are in")
    return mounted


def closing_fails(mounted: Mount, name: str, body: bytes) -> int:
    """Write a file and close it; the errno close gave, 0 if none."""
    fd = os.open(mounted.path / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.write(fd, body)
    try:
        os.close(fd)
    except OSError as exc:
        return exc.errno or 0
    return 0


FAILURES = [
    (403, "AccessDenied", {errno.EACCES, errno.EPERM}),
    (500, "InternalError", {errno.EIO, errno.EAGAIN}),
    (503, "SlowDown", {errno.EIO, errno.EAGAIN}),
    (400, "EntityTooLarge", {errno.EFBIG}),
    (403, "QuotaExceeded", {errno.ENOSPC, errno.EDQUOT}),
    (400, "KeyTooLongError", {errno.ENAMETOOLONG}),
]


@pytest.mark.parametrize(("status", "code", "errnos"), FAILURES, ids=[f[1] for f in FAILURES])
def test_close_reports_the_uploads_error(
    faulty: Mount, counted: Proxy, bucket: Witness, status: int, code: str, errnos: set[int]
) -> None:
    faulty.expected.append(code)
    bucket.put("f", b"old")
    with counted.fault("PutObject", status=status, code=code):
        assert closing_fails(faulty, "f", b"new content") in errnos
        assert bucket.get("f") == b"old"
        fd = os.open(faulty.path / "g", os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(fd, b"x")
        with refused(*errnos):
            os.fsync(fd)
        os.close(os.dup(fd))  # not the last one: asks for nothing
        with refused(*errnos):
            os.close(fd)
    assert not bucket.exists("g") or bucket.get("g") == b"x"


def test_a_later_fsync_may_succeed(faulty: Mount, counted: Proxy, bucket: Witness) -> None:
    """A failed upload keeps the bytes: the program may try again as long as it holds the file."""
    fd = os.open(faulty.path / "f", os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, b"content")
    with counted.fault("PutObject", status=403, code="AccessDenied"), refused(errno.EACCES):
        os.fsync(fd)
    os.fsync(fd)
    assert bucket.get("f") == b"content"
    os.close(fd)


def test_one_failure_is_retried(faulty: Mount, counted: Proxy, bucket: Witness) -> None:
    faulty.options = ("retries=4", *SHARED)
    faulty.remount()
    for fault in (
        {"status": 500, "code": "InternalError"},
        {"status": 503, "code": "SlowDown"},
        {"reset": "before"},
        {"reset": "after"},
    ):
        with counted.fault("PutObject", times=1, **fault) as struck:
            assert closing_fails(faulty, "f", str(fault).encode()) == 0
            assert struck.struck == 1
        assert bucket.get("f") == str(fault).encode()


@pytest.mark.parametrize(
    ("operation", "step"),
    [
        ("CreateMultipartUpload", 0),
        ("UploadPart", 0),
        ("UploadPart", 1),
        ("CompleteMultipartUpload", 0),
    ],
)
def test_a_failed_multipart_upload_leaves_nothing(
    mount: Mounts, bucket: Witness, counted: Proxy, operation: str, step: int
) -> None:
    mounted = mount(bucket, *QUICK, "multipart_size=5", url=counted.url)
    mounted.expected.append("AccessDenied|made up")
    bucket.put("f", b"old")
    with counted.fault(operation, status=403, code="AccessDenied", skip=step):
        fd = os.open(mounted.path / "f", os.O_WRONLY | os.O_TRUNC)
        with suppress(PermissionError):
            for _ in range(12):
                os.write(fd, bytes(MIB))
        with refused(errno.EACCES, errno.EPERM):
            os.close(fd)
        assert bucket.get("f") == b"old"
    assert mounted.stop() in (0, 1)
    assert bucket.get("f") in (b"old", bytes(12 * MIB))
    assert bucket.uploads() == []


def test_nothing_half_written_is_ever_visible(mount: Mounts, bucket: Witness) -> None:
    bucket.put("f", b"old")
    path = mount(bucket, "multipart_size=5").path
    sizes: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            head = bucket.head("f")
            sizes.add(-1 if head is None else head["ContentLength"])
            fresh = bucket.head("new")
            sizes.add(0 if fresh is None else fresh["ContentLength"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    for name in ("f", "new"):
        with open(path / name, "wb", 0) as file:
            file.writelines([bytes(MIB)] * 14)
    stop.set()
    watcher.join()
    assert sizes <= {3, 0, 14 * MIB}
    assert -1 not in sizes


def test_a_killed_daemon_loses_nothing_that_was_closed(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket)
    (mounted.path / "closed").write_bytes(b"closed")
    fd = os.open(mounted.path / "synced", os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, b"synced")
    os.fsync(fd)
    os.write(fd, b" not synced")
    mounted.kill9()
    with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
        os.close(fd)
    assert bucket.get("closed") == b"closed"
    assert bucket.get("synced") == b"synced"
    mounted.start()
    assert (mounted.path / "closed").read_bytes() == b"closed"
    assert (mounted.path / "synced").read_bytes() == b"synced"


def test_an_upload_whose_id_nobody_heard_of_is_aborted_after_a_kill(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    mounted = mount(bucket, url=counted.url)
    mounted.expected.append("was not unmounted")
    fd = os.open(mounted.path / "f", os.O_CREAT | os.O_WRONLY, 0o644)
    with counted.fault("CreateMultipartUpload", acts=True, stall=True):
        for _ in range(80):
            os.write(fd, bytes(MIB))
        until(bucket.uploads, "the bucket has begun the upload")
        mounted.kill9()
    with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
        os.close(fd)
    mounted.start()
    assert bucket.uploads() == []


def test_unmounting_is_refused_while_a_file_is_open(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket)
    with open(mounted.path / "f", "wb", 0) as file:
        file.write(b"x")
        with pytest.raises(AssertionError, match="busy"):
            mounted.stop()
        file.write(b"y")
    assert bucket.get("f") == b"xy"
    assert mounted.stop() == 0


def test_sigterm_drains_and_unmounts(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket)
    (mounted.path / "f").write_bytes(b"x")
    mounted.signal(signal.SIGTERM)
    assert mounted._process is not None
    assert mounted._process.wait(20) == 0
    assert not mounted.path.is_mount()
    assert bucket.get("f") == b"x"


@pytest.mark.parametrize("options", [(), ("writeback",)], ids=["default", "writeback"])
def test_sigterm_publishes_nothing_that_is_not_closed(
    mount: Mounts, bucket: Witness, options: tuple[str, ...]
) -> None:
    bucket.put("emptied", b"good")
    bucket.put("half", b"good")
    mounted = mount(bucket, *options)
    mounted.expected += ["is not saved: ", "are not in the bucket"]
    descriptors = [
        os.open(mounted.path / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for name in ("emptied", "half", "new", "synced")
    ]
    for fd in descriptors[1:]:
        os.write(fd, b"begun")
    os.fsync(descriptors[3])
    os.write(descriptors[3], b" and not finished")
    mounted.signal(signal.SIGTERM)
    assert mounted.wait() == 1
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
    for number in range(2):
        assert dict(zip(bucket.keys(), map(bucket.get, bucket.keys()), strict=True)) == {
            "emptied": b"good", "half": b"good", "synced": b"begun",
        }, number  # fmt: skip
        if not number:
            mounted.start()
            mounted.stop()
    left = {path.read_bytes() for path in mounted.scratch.rglob("unsaved/*")}
    assert left == {b"begun", b"begun and not finished"}


READS: list[tuple[int, str, set[int]]] = [
    (403, "AccessDenied", {errno.EACCES, errno.EPERM}),
    (500, "InternalError", {errno.EIO, errno.EAGAIN}),
    (503, "SlowDown", {errno.EIO, errno.EAGAIN}),
    (403, "InvalidObjectState", {errno.EACCES, errno.EPERM, errno.EREMOTE}),
]


@pytest.mark.parametrize(("status", "code", "errnos"), READS, ids=[r[1] for r in READS])
def test_reading_reports_errors(
    faulty: Mount, counted: Proxy, bucket: Witness, status: int, code: str, errnos: set[int]
) -> None:
    """But for the beginning of the file, which came when it was looked up."""
    faulty.expected.append(code)
    content = os.urandom(MIB)
    bucket.put("f", content)
    os.stat(faulty.path / "f")
    with counted.fault("GetObject", status=status, code=code), refused(*errnos):
        (faulty.path / "f").read_bytes()
    assert (faulty.path / "f").read_bytes() == content


DIRECTORY_ACTIONS = [
    ("ListObjectsV2", lambda m: os.listdir(m.path / "d")),
    pytest.param(
        "PutObject",
        lambda m: (m.path / "new").mkdir(),
        marks=pytest.mark.needs("kept_markers"),
    ),
    ("PutObject", lambda m: (m.path / "l").symlink_to("x")),
    ("CopyObject", lambda m: (m.path / "f").rename(m.path / "g")),
    ("DeleteObject", lambda m: (m.path / "f").unlink()),
]


@pytest.mark.parametrize(("operation", "action"), DIRECTORY_ACTIONS)
def test_errors_of_directory_operations(
    faulty: Mount,
    counted: Proxy,
    bucket: Witness,
    operation: str,
    action: Callable[[Mount], object],
) -> None:
    bucket.put("f", b"content")
    bucket.put("d/f", b"content")
    assert sorted(os.listdir(faulty.path)) == ["d", "f"]
    with (
        counted.fault(operation, status=403, code="AccessDenied"),
        counted.fault("DeleteObjects", status=403, code="AccessDenied"),
        refused(errno.EACCES, errno.EPERM),
    ):
        action(faulty)
    assert sorted(os.listdir(faulty.path)) == ["d", "f"]
    assert bucket.get("f") == b"content"
    action(faulty)


def test_a_body_cut_short_is_fetched_on(faulty: Mount, counted: Proxy, bucket: Witness) -> None:
    faulty.options = ("retries=4", *SHARED)
    faulty.remount()
    body = os.urandom(300_000)
    bucket.put("f", body)
    with counted.fault("GetObject", truncate=100_000, times=1) as fault:
        assert (faulty.path / "f").read_bytes() == body
        assert fault.struck == 1


def test_a_lost_object_is_not_found(faulty: Mount, counted: Proxy, bucket: Witness) -> None:
    bucket.put("f", b"content")
    assert os.listdir(faulty.path) == ["f"]
    bucket.delete("f")
    with refused(errno.ENOENT, errno.ESTALE):
        (faulty.path / "f").read_bytes()
