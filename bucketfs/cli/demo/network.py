"""A network for the demo: a relay before the server that makes round trips long, and can be cut.

It runs in a thread of its own and passes bytes on unchanged. What a client sends is held back for
the length of a round trip, so that each request takes that much longer; answers come at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

#: Bytes that are passed on at once.
_PIECE = 1 << 18


class Network:
    """One relay.

    Attributes:
        url: Where clients find the server behind it.
        round_trip: Seconds.
    """

    def __init__(self, url: str, round_trip: float) -> None:
        self.url = ""
        self.round_trip = round_trip
        self._server = urlsplit(url)
        self._is_cut = False
        self._ends: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def cut(self) -> None:
        """End all connections, and accept none until `mend`."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._hang_up)

    def mend(self) -> None:
        """Pass bytes on again."""
        self._is_cut = False

    def start(self) -> None:
        """Listen; returns when clients may come."""
        self._thread.start()
        self._listens.wait()

    def stop(self) -> None:
        """End all connections and the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._listens.set()
        await self._stop.wait()
        server.close()
        self._hang_up()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _hang_up(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(self._server.hostname, self._server.port)
        ends = {client, server}
        self._ends |= ends
        if self._is_cut:
            self._hang_up()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._late(reader, server))
                both.create_task(_pass(answers, client))
        finally:
            for end in ends:
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()
            self._ends -= ends

    async def _late(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        """Pass on what a client sends, a round trip after it came."""
        with suppress(ConnectionError):
            while piece := await reader.read(_PIECE):
                self._loop.call_later(self.round_trip, server.write, piece)
        self._loop.call_later(self.round_trip, server.close)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
    writer.close()


@contextmanager
def network(url: str, round_trip: float) -> Iterator[Network]:
    """A running relay before the server at `url`, with round trips of so many seconds."""
    running = Network(url, round_trip)
    running.start()
    try:
        yield running
    finally:
        running.stop()
