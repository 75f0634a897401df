"""What the node's driver and the mounter say to each other: a line of JSON each way, over a socket.

With a request to serve a mount comes the descriptor of /dev/fuse. Whoever may write into the
socket's directory is trusted, which is root; keys go through it and are on no disk.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, cast

from grpc import StatusCode

from bucketfs.csi.records import Record
from bucketfs.csi.refused import Refused
from bucketfs.csi.volume import Wanted

#: Bytes of a message at most.
LONGEST = 1 << 20
_PIECE = 1 << 16
#: Seconds for the first answer of bucketfs, with all its repetitions, beside what a caller waits.
_PATIENCE = 600.0


def send(connection: socket.socket, message: dict[str, Any], descriptor: int = -1) -> None:
    """Send a message, with a descriptor if there is one."""
    line = json.dumps(message).encode() + b"\n"
    sent = socket.send_fds(connection, [line], [descriptor]) if descriptor >= 0 else 0
    connection.sendall(line[sent:])


def receive(connection: socket.socket) -> tuple[dict[str, Any], int]:
    """A message, and the descriptor that came with it, or -1.

    Raises:
        ValueError: It is none.
        OSError: The other end is gone.
    """
    text, descriptor = bytearray(), -1
    while not text.endswith(b"\n"):
        piece, found, _, _ = socket.recv_fds(connection, _PIECE, 1)
        if not piece or len(text) > LONGEST:
            raise ValueError("no message")
        text += piece
        descriptor = found[0] if found else descriptor
    return cast(dict[str, Any], json.loads(text)), descriptor


class MounterClient:
    """The mounter, as the driver sees it. Each method raises Refused."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, wanted: Wanted, descriptor: int) -> None:
        """Have a mount served; returns when it is."""
        record = {
            "target": wanted.target,
            "volume": wanted.volume,
            "spec": wanted.spec,
            "fingerprint": wanted.fingerprint,
            "single_writer": wanted.single_writer,
            "words": wanted.words,
        }
        self._ask({"do": "start", "record": record, "keys": wanted.keys}, descriptor)

    def renew(self, target: str, keys: str) -> None:
        """Give a mount other keys, which it takes when the bucket refuses those that it has."""
        self._ask({"do": "renew", "target": target, "keys": keys})

    def mounts(self) -> list[Record]:
        """All mounts that are served, also those that are gone and not saved to the end."""
        found = self._ask({"do": "list"})["mounts"]
        return [Record(**{**each, "words": tuple(each["words"])}) for each in found]

    def ended(self, target: str, seconds: float) -> bool:
        """Wait until a mount that is gone is saved to the end; whether it is."""
        return bool(self._ask({"do": "await", "target": target, "seconds": seconds})["ended"])

    def size(self, target: str) -> tuple[int, int] | None:
        """Bytes and objects of a volume as they were counted last, None if they were not yet."""
        found = self._ask({"do": "size", "target": target})["size"]
        return (int(found[0]), int(found[1])) if found else None

    def _ask(self, message: dict[str, Any], descriptor: int = -1) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_PATIENCE)
                connection.connect(os.fspath(self._path))
                send(connection, message, descriptor)
                answer, _ = receive(connection)
        except (OSError, ValueError) as error:
            line = f"the mounter does not answer at {self._path}: {error}; is its pod running?"
            raise Refused(StatusCode.UNAVAILABLE, line) from None
        if "error" in answer:
            raise Refused(StatusCode[answer["code"]], str(answer["error"]))
        return answer
