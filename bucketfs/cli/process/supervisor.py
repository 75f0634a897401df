"""The small process of ``-o restart``: it keeps a mount, and starts its daemon again.

    python -I -S supervisor.py DIRECTORY REPORT PROGRAM WORD…

Starts the program in DIRECTORY as its child and does for it what systemd does for a service: it has
a socket for what sd_notify(3) says, keeps the descriptors that come with ``FDSTORE=1``, and hands
them to the next daemon. REPORT is a descriptor for the first daemon alone, -1 for none.

It never looks at the mount. A daemon that ends while the descriptor of a mount that stands is kept
is followed by another one: it has died, or it has left the mount to its successor (`bucketfs
restart`). A daemon that ends a mount has the descriptor dropped before, and the supervisor ends
with it, with its exit code. When it gives up, programs get ENOTCONN.

It lives as long as the mount, in as little memory as a Python takes: nothing of bucketfs is
imported, so that it also outlives an upgrade.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import stat
import struct
import sys
import syslog
import time
from collections import deque

#: Tells the program that it is started so, with the descriptor REPORT.
VARIABLE = "BUCKETFS_SUPERVISED"

#: The program may die so many times in so many seconds.
_MOST, _WITHIN = 10, 1800.0
#: Seconds before the next start: none after the first death, then so many, and twice as many each
#: time, up to the last.
_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
#: Exit codes of what another start does not mend: options, mount point, keys, bucket, rights,
#: /dev/fuse (`bucketfs.cli.failure.ExitCode`).
_FINAL = frozenset({2, 3, 4, 5, 6, 8})
_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: SD_LISTEN_FDS_START, and numbers that are not in its way.
_FIRST, _ASIDE = 3, 100
#: pid, uid, gid of who sends (struct ucred).
_SENDER = struct.Struct("=iii")
_LONGEST, _MOST_DESCRIPTORS = 4096, 16
#: Of the environment: they are for this process.
_OURS = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC")


class Supervisor:
    """Keeps descriptors, and starts a program again and again.

    Args:
        directory: Where it is started.
        report: Descriptor for the first start, or -1.
        command: Its words.
        pause: As `_PAUSE`.
    """

    def __init__(
        self, directory: str, report: int, command: list[str], *, pause: float = _PAUSE
    ) -> None:
        self._directory = directory
        self._report = report
        self._in_background = report >= 0
        self._command = command
        self._pause = pause
        self._held: list[tuple[str, int]] = []
        self._pid = 0
        self._ready = False
        self._deaths: deque[float] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")  # the kernel chooses an abstract name
        self._ends = False
        for number in _HANDED_ON:
            signal.signal(number, self._hand_on)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def run(self) -> int:
        """Until the mount has ended, or nobody can serve it; the program's exit code."""
        while True:
            code = self._live()
            if self._ends or not self._stands():
                return code
            if code in _FINAL and not self._ready:
                _tell(f"given up, what is mounted fails from now on: it ended with code {code}")
                return code
            if code != 0 and not (self._wait_after_death(code) and self._stands()):
                return code

    def _live(self) -> int:
        """One life of the program; its exit code, negative for a signal."""
        self._ready = False
        self._start()
        end = os.pidfd_open(self._pid)
        poll = select.poll()
        poll.register(end, select.POLLIN)
        poll.register(self._socket, select.POLLIN)
        try:
            while end not in dict(poll.poll()):
                self._hear()
        finally:
            os.close(end)
        self._hear()
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return os.waitstatus_to_exitcode(status)

    def _start(self) -> None:
        self._pid = os.fork()
        if self._pid:
            if self._report >= 0:
                os.close(self._report)
                self._report = -1
            return
        try:
            self._become()
        except OSError as error:
            _tell(f"{self._command[0]}: {error.strerror}")
        finally:
            os._exit(1)

    def _become(self) -> None:
        """The child's part: never returns, but raises OSError."""
        for number in (*_HANDED_ON, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        if not self._in_background:
            os.setsid()  # a terminal's Ctrl-C comes from here, and only once
        environment = {name: text for name, text in os.environ.items() if name not in _OURS}
        environment["NOTIFY_SOCKET"] = "@" + self._socket.getsockname()[1:].decode()
        environment[VARIABLE] = str(self._report)
        if self._report >= 0:
            os.set_inheritable(self._report, True)
        elif self._held:
            aside = [fcntl.fcntl(number, fcntl.F_DUPFD, _ASIDE) for _, number in self._held]
            for at, copy in enumerate(aside):
                os.dup2(copy, _FIRST + at, inheritable=True)
                os.close(copy)
            environment["LISTEN_PID"] = str(os.getpid())
            environment["LISTEN_FDS"] = str(len(aside))
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in self._held)
        os.chdir(self._directory if os.path.isdir(self._directory) else "/")
        os.execve(self._command[0], self._command, environment)  # noqa: S606  (no shell)

    def _hear(self) -> None:
        """Do what the program has said since."""
        room = socket.CMSG_SPACE(_SENDER.size) + socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        while True:
            try:
                text, found, _, _ = self._socket.recvmsg(_LONGEST, room, flags)
            except BlockingIOError:
                return
            descriptors: list[int] = []
            sender = -1
            for _, kind, data in found:
                if kind == socket.SCM_RIGHTS:
                    descriptors += memoryview(data)[: len(data) // 4 * 4].cast("i")
                elif kind == socket.SCM_CREDENTIALS:
                    sender = _SENDER.unpack_from(data)[1]
            if sender == os.geteuid():  # anybody may send to an abstract name
                descriptors = self._obey(text.decode(errors="replace"), descriptors)
            for number in descriptors:
                os.close(number)

    def _obey(self, text: str, descriptors: list[int]) -> list[int]:
        """Carry out one message; the descriptors of it that are not kept."""
        words = dict(line.partition("=")[::2] for line in text.splitlines())
        name = words.get("FDNAME", "stored")
        if words.get("READY") == "1":
            self._has_begun()
        if words.get("FDSTOREREMOVE") == "1":
            self._drop(name)
        elif words.get("FDSTORE") == "1":
            self._held += [(name, number) for number in descriptors]
            return []
        return descriptors

    def _has_begun(self) -> None:
        """The mount stands: from now on nobody at a terminal waits for it, or listens."""
        self._ready = True
        if self._in_background:
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            if null > 2:
                os.close(null)

    def _drop(self, name: str) -> None:
        for each, number in self._held:
            if each == name:
                os.close(number)
        self._held = [held for held in self._held if held[0] != name]

    def _stands(self) -> bool:
        """Whether a mount is kept that the kernel has still."""
        poll = select.poll()
        devices = [number for _, number in self._held if stat.S_ISCHR(os.fstat(number).st_mode)]
        for number in devices:
            poll.register(number, 0)
        return bool(devices) and not poll.poll(0)

    def _wait_after_death(self, code: int) -> bool:
        """Let time pass, the more the more often it has died; False when that is too often."""
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - _WITHIN:
            self._deaths.popleft()
        died = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        times = len(self._deaths)
        if times > _MOST:
            _tell(f"given up, what is mounted fails from now on: the daemon {died}, {times} times")
            return False
        _tell(f"the daemon {died}; it is started again")
        pause = min(self._pause * 2 ** (times - 2), _LONGEST_PAUSE) if times > 1 else 0.0
        time.sleep(pause)
        return True

    def _hand_on(self, number: int, _frame: object) -> None:
        """Signals are the program's; between two of them they end this process as well."""
        self._ends |= number != signal.SIGHUP
        if self._pid:
            os.kill(self._pid, number)
        elif self._ends:
            sys.exit(128 + number)


def _tell(line: str) -> None:
    print(f"bucketfs: {line}", file=sys.stderr, flush=True)
    syslog.syslog(syslog.LOG_ERR, line)


def main(words: list[str]) -> int:
    """As the module says."""
    syslog.openlog("bucketfs", syslog.LOG_PID, syslog.LOG_DAEMON)
    with open("/proc/self/comm", "w") as name:
        name.write("bucketfs-keeper")
    directory, report, *command = words
    code = Supervisor(directory, int(report), command).run()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
