"""A mount asked from outside: status, flush, an umount that waits, and a second signal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.endpoint import REPOSITORY
from tests.harness.mounts import as_user
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.system.conftest import Place, hear
from tests.system.test_command import daemon_of


def status_of(place: Place, path: Path | None = None) -> dict[str, Any]:
    done = place.here("status", "--json", str(path or place.path))
    assert done.returncode in (0, 1), done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def waiting(place: Place) -> dict[str, dict[str, Any]]:
    return {item["path"]: item for item in status_of(place)["waiting"]["items"]}


@contextmanager
def started(place: Place, *words: str) -> Iterator[subprocess.Popen[str]]:
    """``bucketfs WORDS`` that goes on beside the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bucketfs", *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def is_served(path: Path) -> bool:
    try:
        return daemon_of(path) > 0
    except AssertionError:
        return False


@dataclass
class Writer:
    """Writes a file and closes it, in a thread of its own: close may take its time."""

    path: Path
    body: bytes
    errno: int | None = None

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.path.write_bytes(self.body)
        except OSError as error:
            self.errno = error.errno

    def join(self) -> int | None:
        self._thread.join(50)
        assert not self._thread.is_alive()
        return self.errno


@pytest.fixture
def slow(place: Place, counted: Proxy) -> Iterator[Place]:
    """Mounted through the proxy, which outlives the mount."""
    assert place.mount(f"url={counted.url}", "retries=1").returncode == 0
    yield place
    if place.path.is_mount():
        place.here("umount", str(place.path))
    until(lambda: not is_served(place.path), "the daemon has ended")


def refuse(place: Place, counted: Proxy, *names: str) -> None:
    """Leave files behind whose uploads the endpoint refused."""
    with counted.fault("PutObject", status=403, code="AccessDenied"):
        for name in names:
            with pytest.raises(PermissionError):
                (place.path / name).write_bytes(name.encode())


class TestStatus:
    def test_idle(self, place: Place) -> None:
        assert place.mount().returncode == 0
        (place.path / "f").write_bytes(b"12345")
        with (place.path / "f").open("rb"):
            told = status_of(place)
        assert told["source"] == told["bucket"] == place.bucket.name
        assert told["mountpoint"] == str(place.path)
        assert told["pid"] == daemon_of(place.path)
        assert told["endpoint"] == place.bucket.endpoint.url
        assert (told["state"], told["open_files"], told["failed"]) == ("mounted", 1, [])
        assert not any(told["waiting"].pop("stages").values())
        assert told["waiting"] == {
            "files": 0, "bytes": 0, "removals": 0, "being_written": 0, "failing": 0,
            "oldest": None, "items": [],
        }  # fmt: skip
        assert told["requests"]["PutObject"]["sent"] >= 5
        assert told["cache"]["held"] > 0
        assert Path(told["cache"]["directory"]).is_dir()
        done = place.run("status", str(place.path))
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{place.bucket.name} at {place.path}\n" in done.stdout

    def test_while_an_upload_stalls(self, slow: Place, counted: Proxy) -> None:
        with counted.fault("PutObject", key="big", stall=True):
            writer = Writer(slow.path / "big", b"x" * 5000)
            until(lambda: "big" in waiting(slow), "it waits")
            until(lambda: waiting(slow)["big"]["state"] == "uploading", "it is being sent")
            (slow.path / "other").write_bytes(b"y")
            told = waiting(slow)
            assert told.keys() == {"big"}
            assert (told["big"]["size"], told["big"]["tries"]) == (5000, 0)
            assert slow.here("status", str(slow.path)).returncode == 0
        assert writer.join() is None
        assert waiting(slow) == {}

    def test_what_failed(self, slow: Place, counted: Proxy) -> None:
        refuse(slow, counted, "f")
        with counted.fault("PutObject", status=403, code="AccessDenied"):
            until(lambda: waiting(slow)["f"]["tries"] > 1, "it was tried again")
            done = slow.here("status", str(slow.path))
            assert done.returncode == 1
            assert "AccessDenied" in done.stdout

    def test_two_mounts(self, place: Place, tmp_path: Path) -> None:
        second = tmp_path / "second"
        second.mkdir()
        assert place.mount().returncode == 0
        done = place.run(f"{place.bucket.name}:/sub", str(second), "-o", place.options)
        assert done.returncode == 0
        try:
            done = place.here("status", "--json")
            told = {one["mountpoint"]: one for one in map(json.loads, done.stdout.splitlines())}
            assert told[str(second)]["prefix"] == "sub/"
            assert told[str(place.path)]["prefix"] == ""
            assert status_of(place, second)["mountpoint"] == str(second)
        finally:
            assert place.here("umount", str(second)).returncode == 0

    def test_a_dead_daemon(self, place: Place) -> None:
        assert place.mount().returncode == 0
        os.kill(daemon_of(place.path), signal.SIGKILL)
        until(lambda: place.here("status", str(place.path)).returncode == 3, "nobody answers")
        done = place.here("status")
        assert done.returncode == 1
        assert f"{place.path}: its daemon does not answer" in done.stderr

    def test_nothing_there(self, place: Place) -> None:
        for tool in ("status", "flush"):
            done = place.here(tool, str(place.path))
            assert (done.returncode, done.stdout) == (3, "")
            assert "no bucket is mounted there" in done.stderr

    @pytest.mark.parametrize(
        "name", ["with space", "new\nline", "back\\slash", "ünïcode", "\udcff"]
    )
    def test_odd_mount_points(self, place: Place, tmp_path: Path, name: str) -> None:
        place.path = tmp_path / name
        place.path.mkdir()
        assert place.mount().returncode == 0
        (place.path / "f").write_bytes(b"x")
        assert status_of(place)["mountpoint"] == str(place.path)
        assert place.here("flush", str(place.path / "f")).returncode == 0
        assert place.here("umount", str(place.path)).returncode == 0

    @pytest.mark.needs_root("acts as another user")
    def test_other_users_cannot_ask(self, place: Place) -> None:
        assert place.mount("allow_other").returncode == 0

        def ask() -> str:
            return str(os.listdir("/run/bucketfs"))

        with pytest.raises(PermissionError):
            as_user(ask)

    @pytest.mark.needs_root("acts as another user")
    def test_others_mounts_are_counted(self, place: Place) -> None:
        assert place.mount("allow_other").returncode == 0
        assert "not shown" not in place.here("status").stdout

        def ask() -> str:
            done = place.here("status")
            return f"{str(place.path) in done.stderr} {done.stdout.splitlines()[-1]}"

        said = str(as_user(ask))
        assert said.startswith("False ")
        assert said.endswith("not shown: only they and root may ask")


class TestFlush:
    def test_waits(self, slow: Place, counted: Proxy) -> None:
        refuse(slow, counted, "f")
        with counted.fault("PutObject", stall=True) as stalled:
            with started(slow, "flush", str(slow.path)) as flush:
                until(lambda: stalled.struck, "it is sent again")
                assert flush.poll() is None
                # Ctrl-C ends the waiting, nothing else
                flush.send_signal(signal.SIGINT)
                assert flush.wait(20) != 0
            assert "f" in waiting(slow)
        assert slow.here("flush", str(slow.path)).returncode == 0
        assert slow.bucket.get("f") == b"f"
        assert waiting(slow) == {}

    def test_says_what_failed(self, slow: Place, counted: Proxy) -> None:
        (slow.path / "d").mkdir()
        (slow.path / "dd").mkdir()
        refuse(slow, counted, "d/f", "dd/f")
        with counted.fault("PutObject", key="d/f", status=403, code="AccessDenied"):
            assert slow.here("flush", str(slow.path / "dd")).returncode == 0
            assert slow.bucket.get("dd/f") == b"dd/f"
            done = slow.here("flush", str(slow.path / "d"))
            assert done.returncode == 1
            assert "bucketfs: d/f: PutObject" in done.stderr
            done = slow.here("flush", str(slow.path))
            assert done.returncode == 1
        assert slow.here("flush", str(slow.path / "d" / "f")).returncode == 0
        assert slow.bucket.get("d/f") == b"d/f"

    @pytest.mark.needs_root("binds a mount")
    def test_through_a_symlink_and_a_bind_mount(
        self, slow: Place, counted: Proxy, tmp_path: Path
    ) -> None:
        (slow.path / "d").mkdir()
        (slow.path / "link").symlink_to("d")
        (tmp_path / "outer").symlink_to(slow.path / "d")
        bound = tmp_path / "bound"
        bound.mkdir()
        subprocess.run(["mount", "--bind", slow.path / "d", bound], check=True)
        try:
            for number, way in enumerate((slow.path / "link", tmp_path / "outer", bound)):
                refuse(slow, counted, f"d/{number}", f"{number}")
                with counted.fault("PutObject", key=f"{number}", status=403, code="AccessDenied"):
                    assert slow.here("flush", str(way / str(number))).returncode == 0
                    assert slow.bucket.exists(f"d/{number}")
        finally:
            subprocess.run(["umount", bound], check=True)


class TestRefresh:
    def seen(self, place: Place) -> None:
        """A tree that the mount and the kernel trust for a day, and which others then change."""
        bucket = place.bucket
        bucket.put_many({"d/f": b"1", "d/e/f": b"1", "d/e/goes": b"1", "other/f": b"1"})
        assert place.mount("immutable").returncode == 0
        subprocess.check_output(["ls", "-lR", str(place.path)])
        for name in ("d/f", "other/f"):
            assert (place.path / name).read_bytes() == b"1"
        for name in ("new", "d/new", "d/e/new", "other/new", "d/sub"):
            assert not (place.path / name).exists()
        changed = ("d/f", "d/e/f", "other/f", "new", "d/new", "d/e/new", "other/new", "d/sub/x")
        bucket.put_many(dict.fromkeys(changed, b"others'"))
        bucket.delete("d/e/goes")

    def sizes(self, place: Place, *names: str) -> list[int]:
        return [(place.path / n).stat().st_size if (place.path / n).exists() else 0 for n in names]

    def test_a_directory_and_all_below(self, place: Place) -> None:
        self.seen(place)
        names = ["d/f", "d/new", "d/e/f", "d/e/new", "d/sub/x", "d/e/goes", "other/f", "other/new"]
        assert self.sizes(place, *names) == [1, 0, 1, 0, 0, 1, 1, 0]
        assert place.here("refresh", str(place.path / "d")).returncode == 0
        assert self.sizes(place, *names) == [7, 7, 7, 7, 7, 0, 1, 0]
        assert sorted(os.listdir(place.path / "d/e")) == ["f", "new"]
        assert (place.path / "d/f").read_bytes() == b"others'"
        assert place.here("refresh", str(place.path)).returncode == 0
        assert self.sizes(place, "other/f", "other/new", "new") == [7, 7, 7]

    def test_a_file(self, place: Place) -> None:
        self.seen(place)
        assert place.here("refresh", str(place.path / "d/f")).returncode == 0
        assert (place.path / "d/f").read_bytes() == b"others'"
        assert place.here("refresh", str(place.path / "d/e/goes")).returncode == 0
        assert not (place.path / "d/e/goes").exists()

    def test_a_file_that_was_not_there(self, place: Place) -> None:
        self.seen(place)
        for name in ("d/new", "d/sub/x"):
            assert place.here("refresh", str(place.path / name)).returncode == 0
            assert (place.path / name).read_bytes() == b"others'"

    def test_what_is_not_in_the_bucket_yet_stays(self, slow: Place, counted: Proxy) -> None:
        refuse(slow, counted, "f")
        denied = counted.fault("PutObject", status=403, code="AccessDenied")
        with denied, (slow.path / "open").open("wb", 0) as file:
            file.write(b"half")
            assert slow.here("refresh", str(slow.path)).returncode == 0
            assert sorted(os.listdir(slow.path)) == ["f", "open"]
            assert (slow.path / "f").read_bytes() == b"f"
            os.unlink(slow.path / "open")

    def test_words(self, place: Place, tmp_path: Path) -> None:
        assert place.here("refresh", str(tmp_path)).returncode == 3
        assert place.mount().returncode == 0
        for words in ((), ("a", "b"), ("--nonsense", "a")):
            done = place.here("refresh", *words)
            assert done.returncode == 2
            assert "usage: bucketfs refresh PATH" in done.stderr
        assert place.here("refresh", "--help").returncode == 0
        (place.path / "file").touch()
        for name in ("absent", "absent/deep", "file/below"):
            done = place.here("refresh", str(place.path / name))
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"bucketfs: {place.path / name}: No such file or directory\n"
        done = place.here("refresh", str(tmp_path / "elsewhere"))
        assert done.returncode == 3
        assert "no bucket is mounted there" in done.stderr

    def test_an_endpoint_that_refuses(self, slow: Place, counted: Proxy) -> None:
        with counted.fault("", status=403, code="AccessDenied"):
            done = slow.here("refresh", str(slow.path / "unknown"))
        assert done.returncode == 1
        assert "of 'unknown'" in done.stderr
        assert "403" in done.stderr
        assert len(done.stderr.splitlines()) == 1


class TestUmount:
    def test_waits_until_all_is_in_the_bucket(self, slow: Place, counted: Proxy) -> None:
        refuse(slow, counted, "f")
        assert slow.here("umount", str(slow.path)).returncode == 0
        assert not is_served(slow.path)
        assert slow.bucket.get("f") == b"f"
        assert not slow.path.is_mount()

    def test_not_for_ever(self, slow: Place, counted: Proxy) -> None:
        refuse(slow, counted, "f")
        with counted.fault("PutObject", stall=True):
            done = slow.here("umount", "--timeout", "100ms", str(slow.path))
            assert done.returncode == 1
            assert "1 file, 1 B are still being saved" in done.stderr
            assert not slow.path.is_mount()
            everyone = slow.here("status", "--json").stdout.splitlines()
            (told,) = (
                one for one in map(json.loads, everyone) if one["mountpoint"] == str(slow.path)
            )
            assert told["state"] == "draining"
        until(lambda: slow.bucket.exists("f"), "it was saved after all")

    def test_what_could_not_be_saved(self, slow: Place, counted: Proxy, tmp_path: Path) -> None:
        refuse(slow, counted, "f")
        with counted.fault("PutObject", status=403, code="AccessDenied"):
            done = slow.here("umount", str(slow.path))
        assert done.returncode == 1
        assert "1 file could not be saved (f)" in done.stderr
        (kept,) = tmp_path.rglob("unsaved/*")
        assert kept.read_bytes() == b"f"

    def test_words(self, place: Place) -> None:
        assert place.here("umount", "--timeout", "x", str(place.path)).returncode == 2
        assert place.here("umount", "--nonsense", str(place.path)).returncode == 2


class TestSignals:
    @pytest.fixture
    def foreground(
        self, place: Place, counted: Proxy, tmp_path: Path
    ) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], list[str]]]]:
        """A mount that tells systemd how it gets on; and what it has told since the last call."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(tmp_path / "notify"))
            command = [sys.executable, "-m", "bucketfs", place.bucket.name, str(place.path), "-f"]
            process = subprocess.Popen(
                [*command, "-o", f"{place.options},url={counted.url},retries=1"],
                cwd=REPOSITORY,
                env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            )

            def told() -> list[str]:
                lines: list[str] = []
                listener.setblocking(False)
                with suppress(BlockingIOError):
                    while True:
                        lines += listener.recv(1000).decode().splitlines()
                return lines

            hear(listener, "READY=1")
            yield process, told
            process.kill()
            process.wait()

    def test_the_second_leaves_the_rest_here(
        self,
        place: Place,
        counted: Proxy,
        tmp_path: Path,
        foreground: tuple[subprocess.Popen[bytes], Callable[[], list[str]]],
    ) -> None:
        process, told = foreground
        refuse(place, counted, "f")
        said: list[str] = []

        def drains() -> bool:
            said.extend(told())
            return any("1 file, 1 B left" in line for line in said)

        with counted.fault("PutObject", stall=True):
            process.send_signal(signal.SIGTERM)
            until(drains, "it drains")
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 1
        assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in said)
        assert not place.path.is_mount()
        assert not place.bucket.exists("f")
        log = (tmp_path / "log").read_text()
        assert "SIGTERM again" in log
        assert "unmounting was cut short; the next mount of this bucket here goes on" in log
        assert "bucketfs recover" in log
        # the cache is that of the address: the next mount goes the same way
        assert place.mount(f"url={counted.url}").returncode == 0
        assert place.here("flush", str(place.path)).returncode == 0
        assert place.bucket.get("f") == b"f"
        assert place.here("umount", str(place.path)).returncode == 0

    def test_removals_that_are_left_count(
        self,
        place: Place,
        counted: Proxy,
        tmp_path: Path,
        foreground: tuple[subprocess.Popen[bytes], Callable[[], list[str]]],
    ) -> None:
        process, told = foreground
        for number in range(20):
            (place.path / f"f{number:02}").write_bytes(b"x")
        with counted.fault("DeleteObjects", stall=True):
            for name in sorted(os.listdir(place.path)):
                (place.path / name).unlink()
            process.send_signal(signal.SIGTERM)
            until(lambda: any("removals left" in line for line in told()), "it drains")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 1
        assert "removals have not reached the bucket" in (tmp_path / "log").read_text()

    def test_the_first_waits(
        self,
        place: Place,
        counted: Proxy,
        foreground: tuple[subprocess.Popen[bytes], Callable[[], list[str]]],
    ) -> None:
        process, told = foreground
        refuse(place, counted, "f")
        with counted.fault("PutObject", stall=True) as stalled:
            process.send_signal(signal.SIGINT)
            until(lambda: stalled.struck and any("left" in line for line in told()), "it drains")
        assert process.wait(50) == 0
        assert place.bucket.get("f") == b"f"
