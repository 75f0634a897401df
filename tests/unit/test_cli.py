"""The parts of the command line that need neither kernel nor server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from errno import EIO, ENOSPC
from pathlib import Path

import pytest

from bucketfs.cli import main, mounts
from bucketfs.cli.demo import demo
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import bucket
from bucketfs.cli.process import notify
from bucketfs.credentials import Anonymous
from bucketfs.errors import FsError, MountRefused, NoAnswer, NotFound, StoreError
from bucketfs.options import Encryption, Options

MOUNTINFO = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:50 / /mnt/a\040b rw,nosuid,nodev - fuse.bucketfs buck:/p\040q rw,user_id=0
41 22 0:51 / /mnt/x rw shared:7 master:2 - autofs systemd-1 rw
42 41 0:52 / /mnt/x rw - fuse.bucketfs other rw
torn line"""

OPTIONS = Options(bucket="buck", mountpoint="/m", url="http://h:1")


class TestMounts:
    def test_parsed(self) -> None:
        found = mounts.parse_mountinfo(MOUNTINFO.splitlines())
        assert len(found) == 4
        assert found[1] == mounts.Mount(
            "/mnt/a b", "fuse.bucketfs", "buck:/p q", "0:50", flags=("rw", "nosuid", "nodev")
        )

    def test_the_uppermost_counts(self) -> None:
        found = mounts.parse_mountinfo(MOUNTINFO.splitlines())
        top = mounts.mounted_at("/mnt/x", found)
        assert top is not None
        assert top.source == "other"
        assert mounts.mounted_at("/mnt", found) is None

    def test_this_machine(self) -> None:
        assert mounts.mounted_at("/", mounts.current()) is not None


class TestNotify:
    def test_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = str(tmp_path / "socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(path)
            monkeypatch.setenv("NOTIFY_SOCKET", path)
            notify.notify("READY=1", "STATUS=up")
            assert listener.recv(100) == b"READY=1\nSTATUS=up"

    @pytest.mark.parametrize("address", ["", "/nobody/listens", "@nobody", "vsock:1"])
    def test_nobody_listens(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify.notify("READY=1")


class TestWatchdog:
    @pytest.mark.parametrize(
        ("allowed", "pid", "pace"),
        [
            ("20000000", "ours", 10.0),
            ("20000000", None, 10.0),
            ("20000000", "1", None),
            ("0", None, None),
            ("soon", None, None),
            (None, None, None),
        ],
    )
    def test_pace(
        self,
        allowed: str | None,
        pid: str | None,
        pace: float | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name, value in (("WATCHDOG_USEC", allowed), ("WATCHDOG_PID", pid)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, str(os.getpid()) if value == "ours" else value)
        assert notify.watchdog_pace() == pace


class TestStoreConfig:
    def test_plain(self) -> None:
        config = bucket.store_config(OPTIONS, Anonymous(), Anonymous)
        assert (config.bucket, config.url, config.path_style) == ("buck", "http://h:1", None)
        assert config.max_connections == OPTIONS.max_thread_count
        assert config.verify is True

    def test_a_class_that_amazon_does_not_have(self) -> None:
        amazon = replace(OPTIONS, url=None, storage_class="NOPE")
        with pytest.raises(Failure, match=r"storage_class=NOPE: .*STANDARD_IA.*url=") as caught:
            bucket.store_config(amazon, Anonymous(), Anonymous)
        assert caught.value.code is ExitCode.USAGE
        for options in (
            replace(amazon, url="http://h"),
            replace(amazon, storage_class="GLACIER_IR"),
            replace(amazon, storage_class=None),
        ):
            config = bucket.store_config(options, Anonymous(), Anonymous)
            assert config.storage_class == (options.storage_class or "")

    @pytest.mark.parametrize(
        ("key", "expected"),
        [("x" * 32, b"x" * 32), ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", bytes(32))],
    )
    def test_sse_c_keys(self, key: str, expected: bytes) -> None:
        assert bucket.decode_sse_c(key, where="F") == expected

    def test_sse_c_file(self, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_text(f"# first encrypts\n{'k' * 32}\n{'o' * 32}\n")
        options = Options(bucket="b", mountpoint="/m", use_sse=Encryption("custom", str(path)))
        path.chmod(0o644)
        with pytest.raises(Failure, match="run: chmod 600"):
            bucket.store_config(options, Anonymous(), Anonymous)
        path.chmod(0o600)
        config = bucket.store_config(options, Anonymous(), Anonymous)
        assert config.encryption.customer_key == b"k" * 32

    def test_a_short_sse_c_key(self) -> None:
        with pytest.raises(Failure, match="must be 32 bytes") as caught:
            bucket.decode_sse_c("short-secret", where="F")
        assert "short-secret" not in caught.value.line


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "code", "words"),
        [
            (NotFound("NoSuchBucket", status=404), ExitCode.BUCKET, "buck does not exist"),
            (StoreError("AccessDenied", status=403), ExitCode.DENIED, "AccessDenied"),
            (StoreError("InvalidAccessKeyId", status=403), ExitCode.DENIED, "access key"),
            (StoreError("NoCredentials"), ExitCode.CREDENTIALS, "passwd_file=FILE"),
            (
                StoreError("CredentialsFailed", message="the SSO session has expired"),
                ExitCode.CREDENTIALS,
                "has expired; renew the credentials",
            ),
            (NoAnswer("ConnectFailed", message="refused"), ExitCode.NETWORK, "http://h:1"),
            (NoAnswer("TlsFailed"), ExitCode.NETWORK, "certificate"),
            (StoreError("SlowDown", status=503), ExitCode.BUCKET, "SlowDown (HTTP 503)"),
            (MountRefused(EIO, "fusermount3 says no"), ExitCode.FUSE, "says no"),
            (FsError(ENOSPC, "the cache's disk is full"), ExitCode.FAILED, "disk is full"),
            (RuntimeError("odd"), ExitCode.FAILED, "RuntimeError: odd"),
        ],
    )
    def test_one_line(self, error: Exception, code: ExitCode, words: str) -> None:
        failure = bucket.failure_of(error, OPTIONS)
        assert failure.code is code
        assert words in failure.line
        assert "\n" not in failure.line


class TestDispatch:
    def test_helper_codes(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(["/sbin/mount.bucketfs", "b"]) == 1
        assert main.main(["/sbin/mount.bucketfs", "b", "/m", "-o", "bad=1"]) == 1
        assert "mount.bucketfs: " in capsys.readouterr().err

    def test_usage(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(["bucketfs", "b"]) == ExitCode.USAGE
        assert main.main(["bucketfs", "mount", "b"]) == ExitCode.USAGE
        assert main.main(["bucketfs", "umount"]) == ExitCode.USAGE
        assert main.main(["bucketfs", "demo", "-x"]) == ExitCode.USAGE
        assert len(capsys.readouterr().err.splitlines()) == 4

    def test_every_command_is_documented(self, capsys: pytest.CaptureFixture[str]) -> None:
        for command in main.COMMANDS:
            assert main.main(["bucketfs", command, "--help"]) == 0
        assert capsys.readouterr().out.count("usage: ") == len(main.COMMANDS)
        assert demo.USAGE

    @pytest.mark.parametrize("words", [["--help"], ["flush", "--help"]])
    def test_a_reader_that_has_had_enough(self, words: list[str]) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "bucketfs", *words]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
        os.close(writer)
        assert (done.returncode, done.stderr) == (ExitCode.FAILED, b"")
