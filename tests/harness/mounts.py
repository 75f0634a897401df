"""Mounting a bucket with the real program, and taking the mount down whatever happened to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from tests.harness.endpoint import REPOSITORY, Endpoint
from tests.harness.keeper import Keeper
from tests.harness.waiting import until
from tests.harness.witness import Witness

#: Seconds a daemon may take until it serves, and until it has ended after an unmount.
START, STOP = 30.0, 60.0

#: Lets other users into a mount. Only root can become one, and may do so without asking: for others
#: an administrator must have allowed it (user_allow_other in /etc/fuse.conf).
SHARED = ("allow_other",) if os.geteuid() == 0 else ()

#: Takes every right from a process, that to mount among them. Another user would do, too, but may
#: not be let into the folders of this Python.
WITHOUT_RIGHTS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")

#: Log lines no test expects unless it says so.
ALARMING = re.compile(r"Traceback|\bERROR\b|\bCRITICAL\b|Exception(Group)?:|never awaited")


def fuse_missing() -> str:
    """Why nothing can be mounted here, "" if it can."""
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be opened"
    if not shutil.which("fusermount3"):
        return "fusermount3 is not installed (package fuse3)"
    return ""


def stacks(pid: int) -> str:
    """Where the threads of a process wait in the kernel, as far as we may know."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found.append(f"{task.name}:\n{(task / 'stack').read_text()}")
    return "\n".join(found)


@dataclass
class Mount:
    """One mountpoint and the daemon behind it.

    Attributes:
        path: The mountpoint.
        log: What the daemon wrote to its standard error, across remounts.
        expected: Patterns of alarming log lines that are this test's purpose.
        source: What is mounted in place of the bucket.
        handed: Descriptor of /dev/fuse that `mounted_for_others` has mounted there; the daemon gets
            it in place of the mountpoint.
        keeper: Keeps the mount from one daemon to the next.
    """

    bucket: Witness
    url: str
    prefix: str
    options: tuple[str, ...]
    scratch: Path
    expected: list[str] = field(default_factory=list)
    source: str = ""
    handed: int | None = None
    keeper: Keeper | None = None
    _process: subprocess.Popen[bytes] | None = None
    _checked: int = 0

    @property
    def path(self) -> Path:
        return self.scratch / "mnt"

    @property
    def log(self) -> Path:
        return self.scratch / "log"

    def cached(self) -> int:
        """Bytes that the page files of the cache take on the disk."""
        total = 0
        # not under `scratch`: the mount lies there, too, with the buckets of all tests under `:/`
        for path in (self.scratch / "cache").rglob("*.pages"):
            with suppress(FileNotFoundError):  # removed to make room since it was listed
                total += path.stat().st_blocks * 512
        return total

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self) -> list[str]:
        source = self.source or self.bucket.name + (
            f":/{self.prefix.strip('/')}" if self.prefix else ""
        )
        passwd = self.scratch / "passwd"
        if not passwd.exists():
            passwd.touch(0o600)
            passwd.write_text(passwd_lines(self.bucket.endpoint))
        fixed = (
            f"url={self.url}",
            f"region={self.bucket.endpoint.region}",
            "use_path_request_style",
            f"passwd_file={passwd}",
            f"use_cache={self.scratch / 'cache'}",
        )
        options = ",".join((*fixed, *self.options))
        where = str(self.path) if self.handed is None else f"/dev/fd/{self.handed}"
        return [sys.executable, "-m", "bucketfs", source, where, "-f", "-o", options]

    def start(self) -> None:
        """Mount and wait until the kernel is answered."""
        with suppress(FileExistsError):
            # not exist_ok: that looks at what is there, which may be a dead mount
            self.path.mkdir()
        if self.keeper is not None:
            self._start_kept(self.keeper)
            return
        notify = self.scratch / "notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(notify))
            environ = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
            environ |= {"NOTIFY_SOCKET": str(notify), "PYTHONWARNINGS": "default"}
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self.command(),
                    cwd=REPOSITORY,
                    env=environ,
                    stdout=log,
                    stderr=log,
                    pass_fds=[] if self.handed is None else [self.handed],
                )
            self._wait_ready(ready)

    def _start_kept(self, keeper: Keeper) -> None:
        """As `start`, with what the keeper has."""
        command, environment, descriptors = keeper.command(self.command())
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        environ |= {"PYTHONWARNINGS": "default", **environment}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environ,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
            )
        try:
            while "READY=1" not in keeper.said.get(timeout=START):
                pass
        except Empty:
            raise AssertionError(
                f"bucketfs is not ready after {START:g} s\n{self.tail()}"
            ) from None

    def restart(self) -> None:
        """End the daemon so that the mount goes on, and start the next one."""
        self.signal(signal.SIGUSR1)
        self.signal(signal.SIGTERM)
        code = self.wait()
        assert code == 0, f"bucketfs ended with {code}\n{self.tail()}"
        self.start()

    def _wait_ready(self, ready: socket.socket) -> None:
        assert self._process is not None
        ready.settimeout(0.25)
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in ready.recv(4096):
                    assert self.path.is_mount(), f"READY=1 without a mount\n{self.tail()}"
                    return
            except TimeoutError:
                pass
            if self._process.poll() is not None:
                raise AssertionError(f"bucketfs ended: {self._process.poll()}\n{self.tail()}")
        raise AssertionError(f"bucketfs is not ready after {START:g} s\n{self.tail()}")

    def tail(self, lines: int = 60) -> str:
        """The end of the log, for the message of a failure."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def status(self) -> dict[str, Any]:
        """What `bucketfs status` tells of it; its exit code says whether all is well."""
        command = [sys.executable, "-m", "bucketfs", "status", "--json", str(self.path)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def alarms(self) -> list[str]:
        """Alarming lines of the log since the last call that no pattern in `expected` covers."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        fresh, self._checked = text[self._checked :], len(text)
        return [
            line
            for line in fresh.splitlines()
            if ALARMING.search(line) and not any(re.search(p, line) for p in self.expected)
        ]

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None and self.path.is_mount()

    def stop(self) -> int:
        """Unmount as a user would, wait for the daemon to end and answer its exit code."""
        assert self._process is not None
        done = subprocess.run(
            ["umount", str(self.path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"umount: {done.stderr}\n{self.tail()}"
        return self.wait()

    def wait(self) -> int:
        """Wait for a daemon that has been told to end; its exit code."""
        assert self._process is not None
        try:
            return self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"bucketfs still runs after {STOP:g} s\n{self.tail()}") from None

    def remount(self, *options: str) -> None:
        """Unmount, which drains, and mount again, with other options if any are given."""
        code = self.stop()
        assert code == 0, f"bucketfs ended with {code}\n{self.tail()}"
        if options:
            self.options = options
        self.start()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def die(self) -> None:
        """Kill the daemon without warning; the dead mountpoint stays."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"what was killed does not end\n{stacks(self.pid)}") from None

    def kill9(self) -> None:
        """Kill the daemon without warning and clear the dead mountpoint."""
        self.die()
        subprocess.run(["umount", "-l", str(self.path)], check=False)

    def down(self) -> None:
        """Leave nothing behind, however broken the mount is."""
        if self._process is not None and self._process.poll() is None:
            # -f aborts the FUSE connection: it frees processes in it that no signal reaches.
            subprocess.run(["umount", "-f", str(self.path)], check=False, capture_output=True)
            self._process.kill()
            self._process.wait(10)
        if os.path.ismount(self.path) or _stale(self.path):
            subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


def mounted_for_others(path: Path, options: str = "default_permissions") -> int:
    """The descriptor of a new mount that nobody serves yet."""
    path.mkdir(exist_ok=True)
    ours, its = socket.socketpair()
    with ours, its:
        subprocess.run(
            ["fusermount3", "-o", f"{options},subtype=bucketfs", "--", str(path)],
            env={**os.environ, "_FUSE_COMMFD": str(its.fileno())},
            pass_fds=[its.fileno()],
            check=True,
        )
        return socket.recv_fds(ours, 1, 1)[1][0]


def passwd_lines(endpoint: Endpoint) -> str:
    """What a password file says; Swift's keys have a colon, which would end a bucket's name."""
    if ":" in endpoint.access_key:
        return f"AWSAccessKeyId={endpoint.access_key}\nAWSSecretKey={endpoint.secret_key}\n"
    return f"{endpoint.access_key}:{endpoint.secret_key}\n"


def _stale(path: Path) -> bool:
    """Whether a mountpoint's daemon is gone (ENOTCONN)."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


class Mounts:
    """Makes mounts and takes all of them down."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.made: list[Mount] = []

    def __call__(
        self, bucket: Witness, *options: str, prefix: str = "", url: str = "", start: bool = True
    ) -> Mount:
        """Mount `bucket` with ``-o`` options; `url` other than the endpoint's is a proxy's."""
        scratch = Path(tempfile.mkdtemp(prefix="m", dir=self._base))
        scratch.chmod(0o755)
        mount = Mount(bucket, url or bucket.endpoint.url, prefix, options, scratch)
        self.made.append(mount)
        if start:
            mount.start()
        return mount

    def close(self) -> list[str]:
        """Unmount all; what went wrong, one text each."""
        wrong: list[str] = []
        for mount in self.made:
            wrong += _close(mount)
        return wrong


def _close(mount: Mount) -> list[str]:
    wrong: list[str] = []
    try:
        if mount.alive():
            code = mount.stop()
            if code != 0:
                wrong.append(f"bucketfs ended with {code} after umount\n{mount.tail()}")
    except AssertionError as exc:
        wrong.append(str(exc))
    finally:
        mount.down()
    alarms = mount.alarms()
    if alarms:
        wrong.append("in the log of bucketfs:\n" + "\n".join(alarms) + "\n…\n" + mount.tail())
    return wrong


def as_user(action: Callable[[], object], *, uid: int = 1000, gid: int = 1000) -> object:
    """Run `action` in a forked process of another user; its str/int/None result or its OSError.

    The action must do nothing but system calls and building a short result. Skips the test where
    this process is not root's.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: acts as another user")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _as_user(action, write_end, uid, gid)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    kind, _, value = answer.partition(":")
    if kind == "errno":
        raise OSError(int(value), os.strerror(int(value)))
    assert kind == "value", f"the child failed: {answer}"
    return int(value) if value.lstrip("-").isdigit() else value


def _as_user(action: Callable[[], object], pipe: int, uid: int, gid: int) -> None:
    """The child's part; never returns."""
    try:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        answer = f"value:{action()}"
    except OSError as exc:
        answer = f"errno:{exc.errno}"
    except BaseException as exc:  # noqa: BLE001  (the parent raises it)
        answer = f"failed:{exc!r}"
    finally:
        os.write(pipe, answer.encode())
        os._exit(0)


def wait_for_key(bucket: Witness, key: str, *, timeout: float = 20.0) -> None:
    """Wait until an object that appears in the background (release of a mapped file) is there."""
    until(lambda: bucket.exists(key), f"object {key!r}", timeout=timeout)
