"""``bucketfs-csi mounter``: serves the mounts that the node's driver makes, without its rights."""

from __future__ import annotations

import functools
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from grpc import StatusCode

from bucketfs.cli.socket import client, runtime
from bucketfs.csi import serving, talk
from bucketfs.csi.pending import Pending
from bucketfs.csi.records import Record, Records, started
from bucketfs.csi.refused import Refused

log = logging.getLogger("bucketfs.csi.mounter")

#: Requests at once; starting a mount may take minutes.
_THREADS = 64
#: Seconds for a request to arrive.
_PATIENCE = 10.0
#: Seconds that a first count may take before it is answered that there is none yet.
_COUNTING = 10.0


class Mounter:
    """The processes of this node's mounts.

    Args:
        state: Directory for records and keys, best in memory.
        cache: Directory of the caches.
        recount: Seconds between two counts of a volume's bytes; 0: they are not counted.
    """

    def __init__(self, state: Path, cache: Path, recount: float) -> None:
        self._records = Records(state)
        # a volume of a container begins with mode 777
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        cache.chmod(0o700)
        self._cache = cache
        self._recount = recount
        self._sizes: dict[str, _Size] = {}
        self._lock = threading.Lock()
        self._pending = Pending()
        self._log = os.dup(sys.stderr.fileno())
        self._requests: dict[str, Callable[[dict[str, Any], int], dict[str, Any]]] = {
            "start": self._start,
            "renew": self._renew,
            "list": self._list,
            "await": self._await,
            "size": self._size,
        }

    def resume(self) -> None:
        """Find the mounts of the mounter before this one."""
        self._records.remove_dead()
        for record in self._records.all():
            log.info("%s is served by process %d still", record.spec, record.pid)
            self._watch(record, functools.partial(_wait_for_anothers, record.pid))

    def answer(self, connection: socket.socket) -> None:
        """Answer one request; nothing is raised."""
        with connection:
            try:
                connection.settimeout(_PATIENCE)
                if runtime.peer(connection)[1] not in (0, os.getuid()):
                    return
                message, descriptor = talk.receive(connection)
                connection.settimeout(None)
                talk.send(connection, self._answer(message, descriptor))
            except (OSError, ValueError, KeyError) as error:
                log.warning("a request was not answered: %s", error)

    def end_all(self) -> None:
        """End all mounts, and wait until they are saved."""
        records = list(self._records.all())
        for record in records:
            serving.end(record.pid)
        for record in records:
            client.await_exit(record.pid, None)

    def _answer(self, message: dict[str, Any], descriptor: int) -> dict[str, Any]:
        try:
            return self._requests[message["do"]](message, descriptor)
        except Refused as refused:
            log.warning("%s", refused.line)
            return {"error": refused.line, "code": refused.code.name}
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _start(self, message: dict[str, Any], descriptor: int) -> dict[str, Any]:
        values = message["record"]
        record = Record(**{**values, "words": tuple(values["words"])})
        with self._pending.alone(record.target):
            return self._start_one(record, message["keys"], descriptor)

    def _start_one(self, record: Record, keys: str, descriptor: int) -> dict[str, Any]:
        if self._records.find(record.target) is not None:
            line = f"{record.target}: what was mounted there before is still being saved"
            raise Refused(StatusCode.ABORTED, line)
        with self._lock:
            self._records.forget(record.target)
            if keys:
                self._records.write_keys(record.target, keys)
        folder = self._records.folder(record.target)
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            words = self._words(record)
            process = serving.start(record.spec, words, descriptor, folder, self._log)
        except Refused:
            self._records.forget(record.target)
            raise
        record = replace(record, pid=process.pid, started=started(process.pid))
        self._records.write(record)
        self._watch(record, process.wait)
        log.info("%s is served by process %d", record.spec, record.pid)
        return {}

    def _words(self, record: Record) -> list[str]:
        """All options of a mount."""
        keys = self._records.keys(record.target)
        return [
            *record.words,
            f"use_cache={self._cache}",
            f"instance_name={record.volume}",
            *([f"passwd_file={keys}"] if keys.exists() else []),
        ]

    def _watch(self, record: Record, wait: Callable[[], int]) -> None:
        threading.Thread(target=self._until_ended, args=[record, wait], daemon=True).start()

    def _until_ended(self, record: Record, wait: Callable[[], int]) -> None:
        code = wait()
        self._forget(record)
        level = logging.ERROR if code else logging.INFO
        log.log(level, "%s: process %d has ended with code %d", record.spec, record.pid, code)

    def _forget(self, record: Record) -> None:
        with self._lock:
            self._sizes.pop(record.target, None)
            self._records.forget_process(record)

    def _renew(self, message: dict[str, Any], _: int) -> dict[str, Any]:
        if self._records.find(message["target"]) is not None and message["keys"]:
            self._records.write_keys(message["target"], message["keys"])
        return {}

    def _list(self, _: dict[str, Any], __: int) -> dict[str, Any]:
        return {"mounts": [asdict(record) for record in self._records.all()]}

    def _await(self, message: dict[str, Any], _: int) -> dict[str, Any]:
        record = self._records.find(message["target"])
        if record is None:
            return {"ended": True}
        done = client.await_exit(record.pid, float(message["seconds"]))
        if done:
            self._forget(record)
        return {"ended": done}

    def _size(self, message: dict[str, Any], _: int) -> dict[str, Any]:
        record = self._records.find(message["target"])
        if record is None or not self._recount:
            return {"size": None}
        with self._lock:
            size = self._sizes.setdefault(record.target, _Size())
            if size.is_due(self._recount):
                size.begin()
                threading.Thread(target=self._measure, args=[record, size], daemon=True).start()
        size.known.wait(_COUNTING)
        return {"size": size.found}

    def _measure(self, record: Record, size: _Size) -> None:
        done = serving.count(record.spec, self._words(record))
        if done.returncode:
            log.warning("%s: not counted: %s", record.spec, done.stderr.strip())
        else:
            told = json.loads(done.stdout)
            size.found = (told["bytes"], told["objects"])
        size.known.set()


def _wait_for_anothers(pid: int) -> int:
    """Wait for a process of the mounter before; nobody tells us its code."""
    client.await_exit(pid, None)
    return 0


class _Size:
    """How large a volume is, as far as that is known."""

    def __init__(self) -> None:
        self.found: tuple[int, int] | None = None
        self.known = threading.Event()
        self._begun: float | None = None

    def is_due(self, recount: float) -> bool:
        return self._begun is None or time.monotonic() - self._begun >= recount

    def begin(self) -> None:
        self._begun = time.monotonic()


def run(path: Path, mounter: Mounter, *, end_mounts: bool) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        path: Of the socket.
        mounter: Has the answers.
        end_mounts: End the mounts, too, as the end of a container does, but not before they are
            saved.
    """
    waker, woken = os.pipe()[::-1]
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    mounter.resume()
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(_THREADS) as pool:
        mask = os.umask(0o177)
        listener.bind(str(path))
        os.umask(mask)
        listener.listen()
        log.info("listening at %s", path)
        poll = select.poll()
        for each in (listener.fileno(), woken):
            poll.register(each, select.POLLIN)
        while woken not in dict(poll.poll()):
            connection, _ = listener.accept()
            pool.submit(mounter.answer, connection)
    if end_mounts:
        mounter.end_all()
