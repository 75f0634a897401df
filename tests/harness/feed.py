"""A feed of changes before a server that has none: MinIO's ListenBucketNotification.

As minio/minio, cmd/listen-notification-handlers.go and cmd/event-notification.go write it: the head
of the answer goes out with the first line, a line without records is a ping, and an event is on its
way before the request that caused it is answered.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from urllib.parse import quote_plus, unquote
from xml.sax.saxutils import unescape

from tests.harness.http import Request

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_PING = b'{"Records":null}\n'
#: What makes an object, by S3's name for it: the end of the event's name.
MAKING = {
    "PutObject": "Put",
    "CopyObject": "Copy",
    "CompleteMultipartUpload": "CompleteMultipartUpload",
    "PutObjectTagging": "PutTagging",
}
REMOVING = ("DeleteObject", "DeleteObjects")


@dataclass
class Feed:
    """What is told of the requests that pass a proxy.

    Attributes:
        ping: Seconds between two pings, in place of those that are asked for.
        encoded: Keys are written as RustFS does.
        down: Connections for the feed are dropped.
        silent: Nothing more is sent, and nothing is closed.
        told: Events, as they were told.
        connections: How many listen.
    """

    ping: float | None = None
    encoded: bool = False
    down: bool = False
    silent: bool = False
    told: list[tuple[str, str]] = field(default_factory=list)
    _listeners: dict[asyncio.Queue[bytes], Request] = field(default_factory=dict)

    @property
    def connections(self) -> int:
        return len(self._listeners)

    async def serve(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Answer a listener until it is cut off, or has gone."""
        if self.down:
            return
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._listeners[lines] = request
        pause = self.ping or float(request.query["ping"])
        head = _HEAD
        try:
            while True:
                try:
                    line = await asyncio.wait_for(lines.get(), pause)
                except TimeoutError:
                    line = _PING
                if not line:
                    return
                if self.silent:
                    continue
                request.status = 200
                writer.write(head + f"{len(line):x}\r\n".encode() + line + b"\r\n")
                await writer.drain()
                head = b""
        finally:
            del self._listeners[lines]

    def cut(self) -> None:
        """Drop all listeners; to be called in the loop of the proxy."""
        for lines in self._listeners:
            lines.put_nowait(b"")

    def passed(self, request: Request, sent: bytes, headers: dict[str, str], body: bytes) -> None:
        """A request has been carried out."""
        if request.operation == "DeleteObjects":
            for key in re.findall("<Key>(.*?)</Key>", sent.decode()):
                self._tell(request.bucket, unescape(key), "ObjectRemoved:Delete", "")
        elif request.operation == "DeleteObject":
            self._tell(request.bucket, request.key, "ObjectRemoved:Delete", "")
        else:
            said = headers.get("etag", "") or unescape(body.decode("utf-8", "replace"))
            etag = re.search(r"\"?([0-9a-f]{32}(?:-\d+)?)\"?", said)
            name = f"ObjectCreated:{MAKING[request.operation]}"
            self._tell(request.bucket, request.key, name, etag[1] if etag else "")

    def _tell(self, bucket: str, key: str, name: str, etag: str) -> None:
        self.told.append((key, name))
        written = quote_plus(key) if self.encoded else key
        told = {"key": written, "eTag": etag, "sequencer": f"{time.time_ns():X}"}
        event = {
            "eventVersion": "2.0",
            "eventSource": "minio:s3",
            "eventName": f"s3:{name}",
            "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": bucket}, "object": told},
        }
        line = json.dumps({"Records": [event]}).encode() + b"\n"
        for lines, asked in self._listeners.items():
            prefix = unquote(asked.query["prefix"])
            if asked.bucket == bucket and key.startswith(prefix):
                lines.put_nowait(line)
