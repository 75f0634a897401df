"""The handlers of a mount whose locks are kept in the bucket (``locks=bucket``).

Taking a lock has the file looked at anew: what other mounts have written under theirs is there when
the call returns, in files that were open already, too. Giving it up, by whatever way, first brings
to the bucket what was written. So programs that lock see each other's changes as on one machine.

pyfuse3 knows no locks. The kernel's requests come as notes of a `Relay`, in their order, and each
before the request of libfuse's that belongs to it.

The lock is advice; the fence is that nothing replaces a version it does not know (If-Match). Beside
that, who has lost a lock is told: writing to the file, flush, fsync and the end of the lock fail
with EIO until it is opened, or locked, anew. What it had written is stored as a conflict copy.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, RequestContext, SetattrFields

from bucketfs.errors import FsError, StoreError
from bucketfs.fuse import lock_requests
from bucketfs.fuse.calls import Running
from bucketfs.fuse.encode import Encoder
from bucketfs.fuse.guard import guarded
from bucketfs.fuse.lock_requests import Note, Opcode
from bucketfs.fuse.operations import Operations
from bucketfs.fuse.relayed import Relay
from bucketfs.locks.bucket_locks import BucketLocks
from bucketfs.locks.table import Kind, Mode, Row
from bucketfs.tree.core.handle import Handle
from bucketfs.tree.core.inode import Inode
from bucketfs.tree.saving.save import telling
from bucketfs.tree.tree import Tree

log = logging.getLogger(__name__)

#: Seconds for giving back a lock whose program has gone away meanwhile.
_CLEAN_UP = 10.0


@dataclass(slots=True)
class _Locked:
    """Which inodes have locks, and under which key of theirs.

    A lock stays under the key that the file had when it was taken.
    """

    names: dict[Inode, str] = field(default_factory=dict)
    inodes: dict[str, Inode] = field(default_factory=dict)

    def add(self, inode: Inode, name: str) -> None:
        self.names[inode], self.inodes[name] = name, inode

    def pop(self, name: str) -> Inode | None:
        inode = self.inodes.pop(name, None)
        if inode is not None:
            self.names.pop(inode, None)
        return inode


class Locking(Operations):
    """As `Operations`, of a mount that shares its locks.

    Args:
        tree, encoder, settings: As `Operations` takes them.
        lease: Seconds, as `BucketLocks` takes them.

    Attributes:
        locks: Those of this mount.
    """

    def __init__(self, tree: Tree, encoder: Encoder, *, lease: float, **settings: Any) -> None:
        super().__init__(tree, encoder, **settings)
        state = tree.state
        self.locks = BucketLocks(state.files.store, state.config.prefix, self._lost, lease=lease)
        self._locked = _Locked()
        #: Requests for locks under way, by number.
        self._asking: dict[int, trio.CancelScope] = {}
        #: Owners of the FLUSHes of a handle that are to come.
        self._closing: dict[int, deque[int]] = {}
        #: Who has taken locks by a handle: those of an open file (F_OFD_SETLK) end with it, and
        #: the kernel does not say so.
        self._owners: dict[int, set[tuple[int, Kind]]] = {}
        self._relay: Relay | None = None
        self._nursery: trio.Nursery | None = None

    async def serve_locks(self, relay: Relay) -> None:
        """Answer for locks until the mount has ended; then pyfuse3's loop ends, too."""
        async with trio.open_nursery() as nursery:
            self._relay, self._nursery = relay, nursery
            while await relay.is_there():
                self._hear()
            nursery.cancel_scope.cancel()
        if relay.stands:
            log.error("the process between the kernel and bucketfs has ended: so does the mount")
        pyfuse3.terminate()

    # ---- what the kernel says of locks -----------------------------------------------------------

    def _hear(self) -> None:
        """Take the notes that have come; those about a request are here before it is."""
        for request in self._relay.notes() if self._relay is not None else ():
            note = lock_requests.decode(request)
            if note.opcode is Opcode.FLUSH:
                self._closing.setdefault(note.handle, deque()).append(note.owner)
            elif note.opcode is Opcode.INTERRUPT:
                if scope := self._asking.get(note.unique):
                    scope.cancel()
            elif self._nursery is not None:
                scope = trio.CancelScope()
                if note.mode is not None:  # else what is written would stay here, and the lock end
                    self._asking[note.unique] = scope
                self._nursery.start_soon(self._answer, note, scope)

    async def _answer(self, note: Note, scope: trio.CancelScope) -> None:
        error, body = errno.EINTR, b""
        try:
            with scope:
                if note.opcode is Opcode.GETLK:
                    body = await self.getlk(note.handle, note)
                else:
                    await self.setlk(note.handle, note)
                error = 0
        except pyfuse3.FUSEError as failure:
            error = failure.errno
        finally:
            self._asking.pop(note.unique, None)
        if self._relay is not None:
            self._relay.answer(lock_requests.answer(note.unique, error, body))

    @guarded()
    async def getlk(self, fh: int, note: Note) -> bytes:
        """The lock that is in the way of one."""
        inode = self._file(fh).inode
        row = note.row(self.locks.mount)
        found = await self.locks.find(self._name(inode), row)
        ours = found is not None and found.mount == self.locks.mount
        return lock_requests.found(found, ours=ours)

    @guarded(bounded=False)
    async def setlk(self, fh: int, note: Note) -> None:
        """Take a lock, or give locks up.

        A lock on what has become a conflict copy here is refused (ESTALE): who asks for it had the
        file open, or has opened it by its old name, and means what has that name now.
        """
        handle = self._file(fh)
        inode, row = handle.inode, note.row(self.locks.mount)
        if note.mode is None:
            with telling(handle):
                await self._unlock(inode, row)
                if handle.writable:  # where there was no lock any more, nothing was saved yet
                    await self._tree.saver.save(inode)
            if handle.fenced:
                raise FsError(errno.EIO, "the lock was lost before it was given up")
            return
        name = self._name(inode)
        self.locks.check(name)
        open_state = inode.open_state
        if open_state is not None and open_state.fenced:
            raise FsError(errno.EIO, "what was written under a lock that was lost is unsaved")
        await self._convert(inode, name, row)
        await self.locks.lock(name, row, wait=note.opcode is Opcode.SETLKW)
        try:
            self._check_name(inode)
            self._locked.add(inode, name)
            self._owners.setdefault(fh, set()).add((row.owner, row.kind))
            if await self._tree.opener.look_again(handle) and self._relay is not None:
                await self.kernel.until_unused(functools.partial(self._uses_pages, inode))
                await self._relay.renewed(inode.ino, inode.current_size)
            self._check_name(inode)
            if not self.locks.holds(name, row):
                raise FsError(errno.EIO, "the lock was lost while the file was looked at")
            handle.fenced = False
        except BaseException:
            await self._give_back(name, row)
            raise

    def _uses_pages(self, inode: Inode, call: Running) -> bool:
        if call.name not in ("read", "write"):
            return False
        handle = self.handles.get(call.number)
        return isinstance(handle, Handle) and handle.inode is inode

    async def _convert(self, inode: Inode, name: str, row: Row) -> None:
        """What has to be done before a holder's lock becomes another.

        One of flock is given up first, as Linux does: two that both want more would wait for ever.
        """
        if not self.locks.holds(name, row):
            return
        if row.kind is Kind.FLOCK and self.locks.mode(name, row) is not row.mode:
            await self._unlock(inode, row)
        elif row.mode is Mode.SHARED:
            await self._tree.saver.save(inode)

    async def _give_back(self, name: str, row: Row) -> None:
        """Nobody wants it any more who could give it up later."""
        with trio.move_on_after(_CLEAN_UP) as scope:
            scope.shield = True
            try:
                await self.locks.unlock(name, row)
            except StoreError as error:
                log.warning("a lock on %r stays until its lease is over: %s", name, error)
        self._forget_if_free(name)

    async def _unlock(self, inode: Inode, span: Row) -> None:
        """Bring what was written to the bucket, and give locks up, whatever has become of that.

        Raises:
            FsError, StoreError: It is not saved.
        """
        name = self._locked.names.get(inode)
        if name is None or not self.locks.holds(name, span):
            return
        try:
            await self._tree.saver.save(inode)
            self.locks.check(name)
        finally:
            await self._give_back(name, span)

    def _forget_if_free(self, name: str) -> None:
        if not self.locks.is_held(name):
            self._locked.pop(name)

    def _name(self, inode: Inode) -> str:
        """The key under which a file is locked. Raises FsError ESTALE for a removed one."""
        return self._locked.names.get(inode) or self._tree.state.key(inode)

    def _inode(self, fh: int) -> Inode | None:
        handle = self.handles.get(fh)
        return handle.inode if isinstance(handle, Handle) else None

    def _check_name(self, inode: Inode) -> None:
        if inode.ino in self._tree.state.table.aside:
            raise FsError(errno.ESTALE, "the file is a conflict copy now")

    def _lost(self, name: str) -> None:
        inode = self._locked.pop(name)
        files = [handle for handle in self.handles.values() if isinstance(handle, Handle)]
        self._tree.opener.fence(handle for handle in files if handle.inode is inode)

    def _check(self, fh: int) -> Handle | None:
        """Refuse to change a file by a handle whose lock was lost. Raises FUSEError EIO."""
        handle = self.handles.get(fh)
        if not isinstance(handle, Handle):
            return None
        if name := self._locked.names.get(handle.inode):
            self.locks.check(name)
        if handle.fenced:
            raise pyfuse3.FUSEError(errno.EIO)
        return handle

    # ---- what is different for other requests ----------------------------------------------------

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Fails when the file's lock was lost, or the kernel takes its end to be elsewhere."""
        handle = self._check(fh)
        if handle is not None and handle.appends and off != handle.content.size:
            # others' version is longer or shorter: it would be overwritten, or have a hole
            raise pyfuse3.FUSEError(errno.ESTALE)
        return await super().write(fh, off, buf)

    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """Fails when the file's lock was lost."""
        if fields.update_size and fh is not None:
            self._check(fh)
        return await super().setattr(inode, attr, fields, fh, ctx)

    async def fsync(self, fh: int, datasync: bool) -> None:
        """Fails when the file's lock was lost."""
        with suppress(pyfuse3.FUSEError):
            self._check(fh)  # so that what is unsaved goes beside
        await super().fsync(fh, datasync)
        self._check(fh)

    async def flush(self, fh: int) -> None:
        """A descriptor is closed: all locks of that process on the file end."""
        self._hear()
        waiting = self._closing.get(fh)
        owner = waiting.popleft() if waiting else None
        with suppress(pyfuse3.FUSEError):
            self._check(fh)
        try:
            await super().flush(fh)
        finally:
            if owner is not None:
                await self.end_locks(fh, Row(self.locks.mount, owner, Kind.POSIX, Mode.SHARED))
        handle = self.handles.get(fh)
        if isinstance(handle, Handle) and (handle.writable or fh in self._owners):
            self._check(fh)

    async def save_closed(self, handle: Handle) -> None:
        """Have in the bucket, and not only promised (writeback), what was written under a lock."""
        if handle.inode in self._locked.names:
            with telling(handle):
                await self._tree.saver.save(handle.inode)
        else:
            await super().save_closed(handle)

    async def release(self, fh: int) -> None:
        """An open file is no more: what locks it has end.

        A process that has locked the same file by another one keeps its locks.
        """
        self._closing.pop(fh, None)
        owners = self._owners.pop(fh, set())
        for other, theirs in self._owners.items():
            if self._inode(other) is self._inode(fh):
                owners -= theirs
        for owner, kind in owners:
            with suppress(pyfuse3.FUSEError):  # nobody hears of it; what is unsaved is tried again
                await self.end_locks(fh, Row(self.locks.mount, owner, kind, Mode.SHARED))
        await super().release(fh)

    @guarded(bounded=False)
    async def end_locks(self, fh: int, span: Row) -> None:
        """Give up what is left of somebody's locks."""
        handle = self.handles.get(fh)
        if isinstance(handle, Handle):
            await self._unlock(handle.inode, span)


async def check_store(tree: Tree) -> None:
    """Find out whether locks can be kept in the bucket.

    Raises:
        FsError: ENOTSUP, the store does not honour the conditions that they stand on.
    """
    able = await tree.state.files.store.settle("put_if_none_match", "put_if_match")
    missing = [
        header
        for header, honoured in (
            ("If-None-Match", able.put_if_none_match),
            ("If-Match", able.put_if_match),
        )
        if not honoured
    ]
    if missing or not able.etags:
        raise FsError(
            errno.ENOTSUP,
            f"locks=bucket: the endpoint is not known to honour {' and '.join(missing) or 'ETags'}"
            " of an upload, so that two mounts could have one lock; leave the option out",
        )
