"""A tiny in-memory file system that writes down every request the kernel makes of it.

It exists to pin what the kernel, libfuse and pyfuse3 do, apart from anything bucketfs does. It runs
as a process of its own (``python -m tests.harness.tinyfs MOUNTPOINT RECORD KNOBS``): pyfuse3 allows
one mount a process, and a process that serves a mount must never wait for it. RECORD is a file that
gets one JSON line a request, KNOBS a JSON object with the fields of `Knobs`.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from bucketfs.fuse import device
from tests.harness.waiting import until
from tests.harness.watchdog import scratch_base

ROOT = 1


@dataclass(frozen=True)
class Knobs:
    """How the file system behaves.

    Attributes:
        attr_timeout / entry_timeout: Seconds the kernel may remember attributes (the root's: always
            60) and names.
        untyped: readdir answers entries whose mode lacks the file type bits.
        mistyped: readdir calls symlinks regular files; lookup and getattr tell the truth.
        stale_opens: How many opens answer ESTALE; each replaces the file by a new inode.
        negative: Seconds a missing name may be remembered; 0 answers ENOENT instead.
        keep_cache: What open() says about the page cache.
        xattr: False answers ENOSYS to getxattr.
        delay: Seconds each lookup takes.
        options: Further options for libfuse.
        files / links: Names of regular files (owner 0, mode 0644) and of symlinks in the root.
        modes: Mode bits by file name.
        flush_errno: What flush answers if not 0.
        raise_on: Name of a file whose open raises an ordinary exception.
        agreed: The mount begins as bucketfs's do (`fuse.device`); False: as pyfuse3's.
    """

    attr_timeout: float = 60.0
    entry_timeout: float = 60.0
    untyped: bool = False
    mistyped: bool = False
    stale_opens: int = 0
    negative: float = 0.0
    keep_cache: bool = False
    xattr: bool = True
    delay: float = 0.0
    options: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    modes: dict[str, int] = field(default_factory=dict)
    flush_errno: int = 0
    raise_on: str = ""
    agreed: bool = True


@dataclass
class Node:
    mode: int
    uid: int = field(default_factory=os.getuid)
    gid: int = 0
    data: bytearray = field(default_factory=bytearray)
    times: list[int] = field(default_factory=lambda: [time.time_ns()] * 3)
    names: dict[bytes, int] = field(default_factory=dict)


class TinyFs(pyfuse3.Operations):
    """See the module's words; each handler records itself and does the least that works."""

    supports_dot_lookup = False

    def __init__(self, knobs: Knobs, record: int) -> None:
        super().__init__()
        self._knobs = knobs
        self._record = record
        self._next = itertools.count(ROOT + 1)
        self._stale_left = knobs.stale_opens
        self._nodes: dict[int, Node] = {ROOT: Node(stat.S_IFDIR | 0o777)}
        for name in knobs.files:
            mode = knobs.modes.get(name, 0o644)
            self._add(
                ROOT,
                name.encode(),
                Node(stat.S_IFREG | mode, data=bytearray(b"data of " + name.encode())),
            )
        for name in knobs.links:
            self._add(ROOT, name.encode(), Node(stat.S_IFLNK | 0o777, data=bytearray(b"target")))

    def _add(self, parent: int, name: bytes, node: Node) -> int:
        inode = next(self._next)
        self._nodes[inode] = node
        self._nodes[parent].names[name] = inode
        return inode

    def _note(self, op: str, **what: Any) -> None:
        os.write(self._record, json.dumps({"op": op, **what}).encode() + b"\n")

    def _entry(self, inode: int) -> pyfuse3.EntryAttributes:
        node = self._nodes[inode]
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = node.mode
        entry.st_uid, entry.st_gid = node.uid, node.gid
        entry.st_size = len(node.data)
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = node.times
        entry.attr_timeout = 60.0 if inode == ROOT else self._knobs.attr_timeout
        entry.entry_timeout = self._knobs.entry_timeout
        return entry

    async def lookup(self, parent_inode, name, ctx):
        self._note("lookup", name=os.fsdecode(name))
        if self._knobs.delay:
            await trio.sleep(self._knobs.delay)
            self._note("looked", name=os.fsdecode(name))
        inode = self._nodes[parent_inode].names.get(name)
        if inode is not None:
            return self._entry(inode)
        if not self._knobs.negative:
            raise pyfuse3.FUSEError(errno.ENOENT)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = 0
        entry.entry_timeout = self._knobs.negative
        return entry

    async def forget(self, inode_list):
        for inode, count in inode_list:
            self._note("forget", inode=inode, count=count)

    async def getattr(self, inode, ctx):
        self._note("getattr", inode=inode)
        return self._entry(inode)

    async def setattr(self, inode, attr, fields, fh, ctx):
        changed = [
            name
            for name in ("mode", "uid", "gid", "size", "atime", "mtime", "ctime")
            if getattr(fields, f"update_{name}")
        ]
        self._note(
            "setattr", inode=inode, fields=changed, mode=attr.st_mode & 0o7777, fh=fh is not None
        )
        node = self._nodes[inode]
        if fields.update_mode:
            node.mode = attr.st_mode
        if not changed:
            node.mode &= ~(stat.S_ISUID | stat.S_ISGID)
        if fields.update_uid:
            node.uid = attr.st_uid
        if fields.update_gid:
            node.gid = attr.st_gid
        if fields.update_size:
            del node.data[attr.st_size :]
            node.data.extend(bytes(attr.st_size - len(node.data)))
        return self._entry(inode)

    async def readlink(self, inode, ctx):
        return bytes(self._nodes[inode].data)

    async def mkdir(self, parent_inode, name, mode, ctx):
        self._note("mkdir", name=os.fsdecode(name), mode=mode)
        return self._entry(
            self._add(parent_inode, name, Node(stat.S_IFDIR | mode, ctx.uid, ctx.gid))
        )

    async def unlink(self, parent_inode, name, ctx):
        self._note("unlink", name=os.fsdecode(name))
        del self._nodes[parent_inode].names[name]

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        self._note("rename", old=os.fsdecode(name_old), new=os.fsdecode(name_new), flags=flags)
        inode = self._nodes[parent_inode_old].names.pop(name_old)
        self._nodes[parent_inode_new].names[name_new] = inode

    async def open(self, inode, flags, ctx):
        self._note("open", inode=inode, flags=flags)
        if self._stale_left:
            self._stale_left -= 1
            for name, known in self._nodes[ROOT].names.items():
                if known == inode:
                    old = self._nodes[inode]
                    self._add(ROOT, name, Node(old.mode, data=bytearray(b"fresh")))
                    break
            raise pyfuse3.FUSEError(errno.ESTALE)
        if self._nodes[ROOT].names.get(self._knobs.raise_on.encode()) == inode:
            raise RuntimeError("asked for")
        if flags & os.O_TRUNC:
            self._nodes[inode].data.clear()
        return pyfuse3.FileInfo(fh=inode, keep_cache=self._knobs.keep_cache)

    async def create(self, parent_inode, name, mode, flags, ctx):
        self._note("create", name=os.fsdecode(name), mode=mode, flags=flags)
        inode = self._add(
            parent_inode, name, Node(stat.S_IFREG | (mode & 0o7777), ctx.uid, ctx.gid)
        )
        return pyfuse3.FileInfo(fh=inode, keep_cache=self._knobs.keep_cache), self._entry(inode)

    async def read(self, fh, off, size):
        self._note("read", inode=fh, offset=off, size=size)
        return bytes(self._nodes[fh].data[off : off + size])

    async def write(self, fh, off, buf):
        self._note("write", inode=fh, offset=off, size=len(buf))
        data = self._nodes[fh].data
        data.extend(bytes(max(0, off - len(data))))
        data[off : off + len(buf)] = buf
        return len(buf)

    async def flush(self, fh):
        self._note("flush", inode=fh)
        if self._knobs.flush_errno:
            raise pyfuse3.FUSEError(self._knobs.flush_errno)

    async def release(self, fh):
        self._note("release", inode=fh)

    async def fsync(self, fh, datasync):
        self._note("fsync", inode=fh)

    async def opendir(self, inode, ctx):
        self._note("opendir", inode=inode)
        return inode

    async def readdir(self, fh, start_id, token):
        self._note("readdir", inode=fh, start=start_id)
        names = sorted(self._nodes[fh].names.items(), key=lambda item: item[1])
        for name, inode in names:
            if inode <= start_id:
                continue
            entry = self._entry(inode)
            if self._knobs.untyped:
                entry.st_mode = stat.S_IMODE(entry.st_mode)
            if self._knobs.mistyped:
                entry.st_mode = stat.S_IFREG | 0o644
            if not pyfuse3.readdir_reply(token, name, entry, inode):
                return
            self._note("entry", inode=inode)

    async def releasedir(self, fh):
        self._note("releasedir", inode=fh)

    async def statfs(self, ctx):
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = 4096
        answer.f_namemax = 255
        return answer

    async def getxattr(self, inode, name, ctx):
        self._note("getxattr", inode=inode, name=os.fsdecode(name))
        raise pyfuse3.FUSEError(errno.ENODATA if self._knobs.xattr else errno.ENOSYS)

    async def access(self, inode, mode, ctx):
        self._note("access", inode=inode, mode=mode)
        return True


class Tiny:
    """The tests' side of a running `TinyFs`."""

    def __init__(self, mountpoint: Path, record: Path, process: subprocess.Popen[bytes]) -> None:
        self.mountpoint = mountpoint
        self.process = process
        self._record = record
        self._seen = 0

    def requests(self) -> list[dict[str, Any]]:
        """What the kernel asked since the last call."""
        lines = self._record.read_text().splitlines()
        fresh = [json.loads(line) for line in lines[self._seen :]]
        self._seen = len(lines)
        return fresh

    def overlapping(self) -> int:
        """The most delayed lookups that ever were under way at once."""
        running = most = 0
        for line in self._record.read_text().splitlines():
            running += {"lookup": 1, "looked": -1}.get(json.loads(line)["op"], 0)
            most = max(most, running)
        return most

    def ops(self, *only: str) -> list[str]:
        """Names of the requests since the last call, only those named if any is."""
        return [r["op"] for r in self.requests() if not only or r["op"] in only]


@contextmanager
def tiny(**knobs: Any) -> Iterator[Tiny]:
    """Mount a `TinyFs` for the length of the block."""
    base = scratch_base()
    mountpoint, record = base / "tiny", base / "record"
    mountpoint.mkdir()
    record.touch()
    setup = json.dumps(asdict(Knobs(**knobs)))
    command = [sys.executable, "-m", "tests.harness.tinyfs", str(mountpoint), str(record), setup]
    with (base / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=stderr)
    try:
        until(lambda: mountpoint.is_mount() or process.poll() is not None, "tiny fs mounted")
        assert process.poll() is None, (base / "stderr").read_text()
        served = Tiny(mountpoint, record, process)
        served.requests()
        yield served
    finally:
        subprocess.run(["umount", "-l", str(mountpoint)], check=False, capture_output=True)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(base)


def main(mountpoint: str, record: str, setup: str) -> None:
    raw = json.loads(setup)
    knobs = Knobs(**{name: tuple(v) if isinstance(v, list) else v for name, v in raw.items()})
    out = os.open(record, os.O_WRONLY | os.O_APPEND)
    options = set(pyfuse3.default_options) | {"fsname=tinyfs", *knobs.options}
    trio.run(serve, TinyFs(knobs, out), mountpoint, options, not knobs.agreed)


async def serve(operations: TinyFs, mountpoint: str, options: set[str], plain: bool) -> None:
    session = await device.begin(operations, mountpoint, options, plain=plain)
    assert session.agreed is not plain
    try:
        await pyfuse3.main()
    finally:
        session.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
