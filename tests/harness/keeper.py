"""A service manager's file descriptor store, as sd_notify(3) and sd_listen_fds(3) describe it."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from queue import Queue
from threading import Thread

#: Gives a program its descriptors from number 3 on, and itself as the process they are for.
_HAND_OVER = """
import os, sys
numbers = [int(word) for word in sys.argv[1].split(",") if word]
spare = [os.dup2(number, 100 + at) for at, number in enumerate(numbers)]
for number in numbers:
    os.close(number)
for at, number in enumerate(spare):
    os.dup2(number, 3 + at, inheritable=True)
    os.close(number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Keeper:
    """Hears what services say, and keeps what they give.

    Attributes:
        path: The socket, for NOTIFY_SOCKET.
        said: What was said, one text a message.
        held: Descriptors by name.
        room: How many it keeps (FileDescriptorStoreMax=).
    """

    def __init__(self, path: Path, room: int = 4) -> None:
        self.path = path
        self.room = room
        self.said: Queue[str] = Queue()
        self.held: dict[str, list[int]] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 4)
            text = data.decode()
            if text == "close":
                return
            words = dict(line.partition("=")[::2] for line in text.splitlines())
            if "FDSTORE" in words and sum(map(len, self.held.values())) < self.room:
                self.held.setdefault(words["FDNAME"], []).extend(descriptors)
                descriptors = []
            if "FDSTOREREMOVE" in words:
                self._drop(words["FDNAME"])
            for descriptor in descriptors:
                os.close(descriptor)
            self.said.put(text)

    def _drop(self, name: str) -> None:
        for descriptor in self.held.pop(name, []):
            os.close(descriptor)

    def command(self, words: list[str]) -> tuple[list[str], dict[str, str], list[int]]:
        """How to start a program with what is held: its words, environment, and descriptors."""
        named = [(name, number) for name, numbers in self.held.items() for number in numbers]
        numbers = [number for _, number in named]
        environment = {"NOTIFY_SOCKET": str(self.path)}
        if numbers:
            environment |= {
                "LISTEN_FDS": str(len(numbers)),
                "LISTEN_FDNAMES": ":".join(name for name, _ in named),
            }
        first = [sys.executable, "-c", _HAND_OVER, ",".join(map(str, numbers))]
        return [*first, *words], environment, numbers

    def release(self) -> None:
        """Close all that is held, as when a service has been stopped."""
        for name in list(self.held):
            self._drop(name)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"close", str(self.path))
        self._thread.join()
        self._socket.close()
        self.release()
