"""The process around a mount: tells its starter, systemd, the log and the control socket.

It also decides when to stop waiting: the first SIGTERM or SIGINT ends the mount, which then drains;
the second one ends the draining.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import trio

from bucketfs import clock
from bucketfs import log as logs
from bucketfs.cli import show
from bucketfs.cli.options import live, manual
from bucketfs.cli.process import daemon, warming
from bucketfs.cli.process.notify import notify
from bucketfs.cli.socket import control, protocol, report, scrape
from bucketfs.cli.socket.protocol import ProtocolError, Request
from bucketfs.errors import FsError, StoreError
from bucketfs.fuse.host import Service, Trees
from bucketfs.fuse.keeper import Keeper, Taken
from bucketfs.options import Options
from bucketfs.store.base import VERSIONS
from bucketfs.store.layers.trace import Tally, TraceStore
from bucketfs.tasks import Turns
from bucketfs.tree.saving.outstanding import FailedFlush, LeftBehind, Remaining
from bucketfs.tree.tree import Tree

log = logging.getLogger("bucketfs.serve")

#: Seconds between two lines of the log while the mount drains.
_LOG_PACE = 10.0
#: systemd is asked for so much more time, in seconds, whenever the draining has got on: longer than
#: one request can take with all its repetitions.
_EXTENSION = 600
#: Seconds that clients get to hear of the end.
_FAREWELL = 5.0


class MountHost:
    """Implements `bucketfs.fuse.host.Host`.

    Args:
        options: What the mount was asked to do.
        starter: Told that it stands.
        listener: Where figures are asked for by HTTP, if they may be.
        at: What moment or commit it shows, in words; "" for what is there now.
        keeper, taken: As `Host` has them.

    Attributes:
        ready: Whether the mount stands, or stood.
        left: What the bucket lacked when the mount ended.
    """

    def __init__(
        self,
        options: Options,
        starter: daemon.Report,
        *,
        listener: socket.socket | None = None,
        at: str = "",
        keeper: Keeper | None = None,
        taken: Taken | None = None,
    ) -> None:
        self._options = options
        self._at_moment = at
        self._starter = starter
        self._listener = listener
        self._pages = scrape.Server({"/metrics": self._metrics, "/healthz": self._health})
        self._started = time.time()
        self._device = 0
        self._requests: list[Mapping[str, Tally]] = []
        self._service: Service | None = None
        self._draining = False
        self._over = False
        self._progress: tuple[Remaining, int] | None = None
        self._logged = 0.0
        self._turns = Turns()
        self.keeper = keeper
        self.taken = taken
        self.goes_on = False
        self.ready = False
        self.left = LeftBehind()
        self.hurry = trio.Event()
        commands: dict[str, control.Command] = {
            "hello": lambda _request, _tell: self._hello(),
            "status": lambda _request, _tell: self._status(),
            "top": lambda _request, _tell: self._top(),
            "flush": lambda request, tell: self._flush(request.path, tell),
            "refresh": lambda request, tell: self._refresh(request.path, tell),
            "watch": lambda _request, tell: self._watch(tell),
            "info": lambda request, _tell: self._info(request),
            "set": lambda request, _tell: self._set(request),
            "restart": lambda _request, _tell: self._restart(),
            "warm": lambda request, tell: warming.warm(self._buckets, request, tell),
            "evict": lambda request, _tell: self._evict(request),
            "versions": lambda request, _tell: self._versions(request),
            "restore": lambda request, _tell: self._restore(request),
            "presign": lambda request, _tell: self._presign(request),
        }
        if options.versions:
            commands = {name: _of_what_is_now(command) for name, command in commands.items()}
        self._server = control.Server(commands)

    def trace(self, store: TraceStore) -> None:
        """`store` counts requests of this mount."""
        self._requests.append(store.tallies)

    async def attend(
        self, service: Service, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve the control socket, and who asks for figures."""
        self._service = service
        async with trio.open_nursery() as nursery:
            if self._listener is not None:
                nursery.start_soon(self._pages.serve, self._listener)
            await self._server.serve(task_status=task_status)

    def stands(self, device: int) -> None:
        """The kernel answers for the mount point."""
        self.ready = True
        self._device = device
        where = f"{self._options.source} at {self._options.mountpoint}"
        log.info("%s %s", "mounted" if self.taken is None else "went on with", where)
        self._starter.ready()
        notify("READY=1", f"STATUS={where}")

    def drains(self, remaining: Remaining) -> None:
        """Tell systemd each time, the log now and then."""
        now = clock.monotonic()
        sent = sum(tally.sent for tallies in self._requests for tally in tallies.values())
        if not self._draining:
            self._draining = True
            self._logged = now  # the usual unmount is over before there is anything to tell
        words = f"unmounting: {show.remaining(report.remaining(remaining))} left"
        lines = [f"STATUS={words}"]
        if self._progress != (remaining, sent):
            self._progress = remaining, sent
            lines.append(f"EXTEND_TIMEOUT_USEC={_EXTENSION * 1_000_000}")
        notify(*lines)
        if now - self._logged >= _LOG_PACE:
            self._logged = now
            log.warning("%s; a second signal leaves them on this machine", words)
        self._turns.moved()

    async def drained(self, left: LeftBehind) -> None:
        """Tell those who wait for the end, and wait until they have heard."""
        self.left = left
        self._over = True
        self._turns.moved()
        with trio.move_on_after(_FAREWELL):
            await self._server.idle()

    async def _hello(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "mountpoint": self._options.mountpoint,
            "source": self._options.source,
            "device": f"{os.major(self._device)}:{os.minor(self._device)}",
            "state": "draining" if self._draining else "mounted",
        }

    async def _status(self, *, named: bool = True) -> dict[str, Any]:
        assert self._service is not None, "the socket is opened by `attend`"
        return {
            **await self._hello(),
            "version": manual.version(),
            "bucket": self._options.bucket,
            "prefix": self._options.prefix,
            "endpoint": self._options.url or "AWS",
            "read_only": self._options.read_only,
            "at": self._at_moment,
            "started": self._started,
            "uptime": time.time() - self._started,
            "requests": report.requests(self._requests),
            "process": {**report.process(), "lag": await _lag()},
            **report.service(self._service, named=named),
        }

    async def _top(self) -> dict[str, Any]:
        """As `_status`, at one moment of the clock, with calls under way for files that wait."""
        assert self._service is not None
        status, now = await self._status(), clock.monotonic()
        del status["waiting"]["items"]
        status["failed"] = len(status["failed"])
        return {**status, "clock": now, "slowest": report.slowest(self._service, now)}

    async def _metrics(self) -> scrape.Answer:
        return scrape.metrics(await self._status(named=False))

    async def _health(self) -> scrape.Answer:
        if self._draining or not self.ready:
            return scrape.Answer(HTTPStatus.SERVICE_UNAVAILABLE, "not mounted\n")
        return scrape.Answer(HTTPStatus.OK, "mounted\n")

    async def _flush(self, below: str, tell: control.Tell) -> dict[str, Any]:
        assert self._service is not None
        failed: list[FailedFlush] = []

        async def flush(tree: Tree) -> None:
            failed.extend(await tree.outstanding.flush(below))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_telling, tell)
            async with trio.open_nursery() as flushing:
                for tree in self._service.buckets.trees:
                    if not below or f"{below}/".startswith(tree.state.config.place):
                        flushing.start_soon(flush, tree)
            nursery.cancel_scope.cancel()
        named = [{"path": one.path, "error": one.error} for one in failed]
        return {"failed": named[: protocol.MOST_NAMED], "failures": len(failed)}

    async def _refresh(self, path: str, tell: control.Tell) -> dict[str, Any]:
        assert self._service is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_telling, tell)
            failed = await self._forget(self._service, path)
            nursery.cancel_scope.cancel()
        return {"failed": failed}

    async def _forget(self, service: Service, path: str) -> str:
        """Have what is known of a path asked for again; why that cannot be, in one line."""
        try:
            forgotten = await service.buckets.forget(path)
        except (StoreError, FsError) as error:
            return str(error)
        await service.kernel.forget(forgotten.names, forgotten.inodes)
        return os.strerror(errno.ENOENT) if forgotten.missing else ""

    async def _info(self, request: Request) -> dict[str, Any]:
        tree, path = await self._at(request)
        bucket = self._options.bucket or tree.state.config.place.rstrip("/")
        return report.info(bucket, await tree.objects.info(path))

    async def _set(self, request: Request) -> dict[str, Any]:
        assert self._service is not None
        try:
            values = live.parse(request.words)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        self._options = options = replace(self._options, **values)
        if "dbglevel" in values:
            logs.set_level(options.dbglevel)
        if values.keys() & {"stat_cache_expire", "open_ttl"}:
            self._buckets.trust(ttl=options.stat_cache_expire, open_ttl=options.open_ttl)
        if "cache_size" in values:
            self._service.pool.resize(options.cache_size)
        words = ", ".join(f"{name}={text}" for name, text in request.words.items())
        log.warning("changed by bucketfs set: %s", words)
        return {}

    async def _restart(self) -> dict[str, Any]:
        if self.keeper is None or not self.keeper.restarts:
            raise ProtocolError(
                "nobody would start it again: mount with -o restart, or have systemd do it"
                " (systemctl restart)"
            )
        if not await trio.to_thread.run_sync(self.keeper.hears):
            raise ProtocolError("the process that keeps the mount has been ended")
        for number in (signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
        return {}

    async def _evict(self, request: Request) -> dict[str, Any]:
        return warming.evict(self._buckets, request)

    async def _versions(self, request: Request) -> dict[str, Any]:
        tree, path = await self._at(request)
        return report.versions(await tree.objects.versions(path))

    async def _restore(self, request: Request) -> dict[str, Any]:
        assert self._service is not None
        words = request.words
        tree, path = await self._at(request)
        if "version" in words:
            parent = await tree.objects.restore_version(path, words["version"])
            if parent is not None:
                await self._service.kernel.forget_name(parent, path.rpartition("/")[2])
        else:
            days = _number(words.get("days", ""))
            await tree.objects.restore_archived(path, days=days, tier=words.get("tier", "Standard"))
        return {}

    async def _presign(self, request: Request) -> dict[str, Any]:
        seconds = _number(request.words.get("seconds", ""))
        tree, path = await self._at(request)
        return {"url": await tree.objects.presigned_url(path, seconds)}

    async def _at(self, request: Request) -> tuple[Tree, str]:
        """The bucket that a request is about, and the path in it. Raises FsError, StoreError."""
        return await self._buckets.at(request.path)

    @property
    def _buckets(self) -> Trees:
        assert self._service is not None, "the socket is opened by `attend`"
        return self._service.buckets

    async def _watch(self, tell: control.Tell) -> dict[str, Any]:
        while not self._over:
            await self._tell_remaining(tell)
            with trio.move_on_after(protocol.PACE):
                await self._turns.next()
        return report.left(self.left)

    async def _keep_telling(self, tell: control.Tell) -> None:
        while True:
            await self._tell_remaining(tell)
            await trio.sleep(protocol.PACE)

    async def _tell_remaining(self, tell: control.Tell) -> None:
        assert self._service is not None
        trees = self._service.buckets.trees
        await tell(
            report.remaining(Remaining.total(tree.outstanding.remaining() for tree in trees))
        )


async def _lag() -> float:
    """Seconds that all else takes which is ready to run."""
    began = clock.monotonic()
    await trio.lowlevel.checkpoint()
    return clock.monotonic() - began


def _of_what_is_now(command: control.Command) -> control.Command:
    """A command that refuses paths of old versions: it knows files as they are now."""

    async def refusing(request: Request, tell: control.Tell) -> control.Message:
        if VERSIONS in request.path.split("/"):
            raise FsError(
                errno.EINVAL,
                f"commands take the path of the file itself, without {VERSIONS}"
                " (bucketfs versions PATH lists what it was)",
            )
        return await command(request, tell)

    return refusing


def _number(text: str) -> int:
    """A positive number that a request names. Raises ProtocolError."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise ProtocolError(f"{text[:20]!r} is no positive number")
    return int(text)
