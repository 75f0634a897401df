"""The control socket's server: answers the user who mounted, and root.

Bounded in every direction: the number of clients, the length of a request, the time it may take to
arrive and an answer to be taken. A client that goes away ends the waiting done for it, nothing
else; a failure in here never reaches the mount.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from bucketfs.cli.socket import protocol, runtime
from bucketfs.cli.socket.protocol import ProtocolError, Request
from bucketfs.errors import FsError, StoreError, advice
from bucketfs.tasks import Turns

log = logging.getLogger("bucketfs.control")

#: Clients served at once; more are turned away.
_MOST_CLIENTS = 32
#: Seconds a request may take to arrive, and an answer to be taken.
_PATIENCE = 10.0

Message = Mapping[str, Any]
#: Sends a line of progress.
Tell = Callable[[Message], Awaitable[None]]
#: Carries out a request; what it answers is the last line.
Command = Callable[[Request, Tell], Awaitable[Message]]


class Server:
    """One control socket and the requests it understands."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self._clients = 0
        self._turns = Turns()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; without a place for the socket, do nothing but say so."""
        try:
            listener, path = runtime.listen()
        except OSError as error:
            log.warning("there is no control socket, so status and flush do not work: %s", error)
            task_status.started()
            return
        try:
            stream = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
            task_status.started()
            await trio.serve_listeners(self._talk, [stream])
        except Exception:  # whatever it is, files matter more than being asked about them
            log.exception("the control socket has failed; the mount goes on")
        finally:
            path.unlink(missing_ok=True)
            listener.close()

    async def idle(self) -> None:
        """Wait until every client has its answer."""
        while self._clients:
            await self._turns.next()

    async def _talk(self, stream: trio.SocketStream) -> None:
        """Serve one client."""
        self._clients += 1
        try:
            async with stream:
                await self._answer(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            log.debug("a client of the control socket went away")
        except* Exception:
            log.exception("a request to the control socket failed; the mount goes on")
        finally:
            self._clients -= 1
            self._turns.moved()

    async def _answer(self, stream: trio.SocketStream) -> None:
        try:
            with trio.fail_after(_PATIENCE):
                line = await _line(stream)
            self._admit(stream)
            request = protocol.request_of(line)
            command = self._commands.get(request.do)
            if command is None:
                raise ProtocolError(f"{request.do[:40]}: not known here")
        except ProtocolError as error:
            return await _send(stream, {"error": str(error)})
        return await _carry_out(stream, command, request)

    def _admit(self, stream: trio.SocketStream) -> None:
        _, uid = runtime.peer(stream.socket)
        if uid not in (0, os.getuid()):
            log.warning("user %d asked for what only root and the mount's owner may have", uid)
            raise ProtocolError("the mount belongs to another user")
        if self._clients > _MOST_CLIENTS:
            raise ProtocolError("too many ask at once")


async def _carry_out(stream: trio.SocketStream, command: Command, request: Request) -> None:
    async def tell(progress: Message) -> None:
        await _send(stream, {"progress": progress})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_end, stream, nursery.cancel_scope)
        try:
            answer: Message = {"done": await command(request, tell)}
        except (FsError, StoreError, ProtocolError) as error:
            answer = {
                "error": f"{request.path}: {_words(error)}" if request.path else _words(error)
            }
        await _send(stream, answer)
        nursery.cancel_scope.cancel()


def _words(error: FsError | StoreError | ProtocolError) -> str:
    if isinstance(error, FsError):
        return error.why or os.strerror(error.errno or errno.EIO)
    if isinstance(error, StoreError):
        return f"{error}; {hint}" if (hint := advice(error)) else str(error)
    return str(error)


async def _cancel_at_end(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Notice that the client is gone."""
    while await stream.receive_some(protocol.LONGEST_REQUEST):
        pass  # it has said all that is wanted of it
    scope.cancel()


async def _line(stream: trio.SocketStream) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = await stream.receive_some(protocol.LONGEST_REQUEST)
        line += piece
        if len(line) > protocol.LONGEST_REQUEST:
            raise ProtocolError("the request is too long")
        if not piece:
            raise ProtocolError("the request ends in the middle")
    return bytes(line)


async def _send(stream: trio.SocketStream, message: Message) -> None:
    with trio.fail_after(_PATIENCE):
        await stream.send_all(protocol.encode(message))
