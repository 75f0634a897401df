"""The cache of one mount: finds, makes, relabels and evicts page files within a byte budget.

Responsible for the directory and its bound; knows nothing of requests or of who reads. A file
version is named by (key, ETag); bytes that are in no bucket yet live in anonymous page files, which
are pinned for as long as they are the only copy.

Caches of several buckets may share one budget (`Pool`).

Invariants: `held` is the disk space of all files; a pinned file is never evicted;
at most one file per (key, ETag); a file that the journal counts on outlives the mount.
What earlier mounts have left is in the index alone until it is asked for (`Left`).
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from bucketfs import clock
from bucketfs.cache import budget, orphans
from bucketfs.cache.extents import Extents
from bucketfs.cache.index import Index, PageRow
from bucketfs.cache.journal import Journal
from bucketfs.cache.left import Left
from bucketfs.cache.pages import CHUNK, PageFile, sync_directory
from bucketfs.cache.places import INDEX, JOURNAL, UNSAVED, claim, claim_this
from bucketfs.cache.rows import PendingRow
from bucketfs.errors import FsError

log = logging.getLogger(__name__)

#: The budget is checked once per this many bytes taken in, not at each write.
_CHECK_EVERY = 8 << 20
#: Evict this much more than needed, so that a full cache does not evict at every check.
_SLACK = 64 << 20

#: Asked to give up about so many clean bytes of pinned files; answers how many it gave.
Reclaimer = Callable[[int], int]


class Pool:
    """Caches on one disk that share a budget: what was used least recently leaves any of them.

    Attributes:
        limit: Bytes that all hold at most; dirty data that waits for its upload may exceed it.
        keep_free: Given the size of the disk in bytes, how many of them must stay free.
        members: The caches that are open.
        capacity: Bytes they may hold, by the limit and the disk's, at the last check.
        short: Bytes over that after all has left that could leave at once: writers should wait.
        since_check: Bytes taken in since then.
    """

    def __init__(self, limit: int, keep_free: Callable[[int], int]) -> None:
        self.limit = limit
        self.keep_free = keep_free
        self.members: list[DiskCache] = []
        self.capacity = limit
        self.short = 0
        self.since_check = 0

    @property
    def held(self) -> int:
        """Bytes in the page files of all."""
        return sum(member.held for member in self.members)

    @property
    def slack(self) -> int:
        """Bytes that leave beside those that have to."""
        return min(_SLACK, self.limit // 8)

    def resize(self, limit: int) -> None:
        """Have another limit; what is over it leaves at once, if it can."""
        self.limit = self.capacity = limit
        for member in self.members[:1]:  # each looks at all
            member.keep_to_budget()

    def room(self, since: float) -> int:
        """Bytes that can come in before something leaves that was used since a monotonic time."""
        return self.capacity - self.slack - sum(member.used_since(since) for member in self.members)


class DiskCache:
    """Page files in one directory, which no other process uses at the same time.

    Args:
        root: Directory for the caches of all mounts; made if missing, mode 700.
        name: What tells this mount's objects from others' (endpoint, bucket).
        pool: The budget; the cache counts in it until it is closed.
        only: The very directory to use, instead of a free one of this name.
        prefix: Of the keys that are mounted: the directory is not one in which others wait.

    Raises:
        FsError: The directory cannot be used.
    """

    def __init__(
        self,
        root: Path,
        *,
        name: str,
        pool: Pool,
        only: Path | None = None,
        prefix: str = "",
    ) -> None:
        self._pool = pool
        self._directory, self._lock_fd = claim_this(only) if only else claim(root, name, prefix)
        self._files: dict[tuple[str, str], PageFile] = {}
        self._anonymous: set[PageFile] = set()
        self._reclaimers: list[Reclaimer] = []
        self.index = Index(self._directory / INDEX)
        self.journal = Journal(self._directory / JOURNAL)
        #: Page files of an earlier mount's pending files, pinned, until they are asked for.
        self._kept: dict[str, PageFile] = {}
        self._load()

    def _load(self) -> None:
        known, lost = set(), self.journal.lost
        # an index of an earlier time may say so; else each page file is looked at
        in_order = self.index.complete and not lost and not self.journal.pending()
        if not in_order:
            self._keep_waiting()
        for pending in self.journal.pending():
            known.add(pending.file)
            path = self._directory / pending.file
            if not pending.error and not path.exists():
                # no checksum tells whether this is the name that was written
                lost = lost or self.journal.data(pending.file) is None
            kept = PageFile(path, size=pending.size, identity=None, exists=path.exists())
            kept.valid = Extents(pending.valid)
            kept.pins = 1
            self._kept[pending.file] = kept
            self._anonymous.add(kept)
        if not in_order:
            self._sort_out(known, lost=lost)
        self._left = Left(self._directory, self.index, self._files)
        if self.journal.lost:
            self.journal.made_good()
        self._pool.members.append(self)
        self._evict(0)

    def _keep_waiting(self) -> None:
        try:
            orphans.keep(self._directory, self.journal)
        except OSError as error:
            raise FsError(
                error.errno or errno.EIO,
                f"cannot move files that wait to {self._directory / UNSAVED}: {error}",
            ) from error

    def _sort_out(self, waiting: set[str], *, lost: bool) -> None:
        """The mount before did not end in order: look for page files that are in no list.

        Args:
            waiting: Names of those that the journal counts on.
            lost: The journal may lack some.
        """
        self.index.drop_files(sorted(waiting))
        known = self.index.files() | waiting
        with os.scandir(self._directory) as entries:
            unknown = [e.name for e in entries if e.name.endswith(".pages") and e.name not in known]
        for name in unknown:
            path = self._directory / name
            if lost:
                aside = path.replace(orphans.unsaved(self._directory) / name)
                log.error("%s may have bytes that no bucket has; see bucketfs recover", aside)
            else:
                path.unlink()

    @property
    def directory(self) -> Path:
        """Where the page files are: this mount's own directory."""
        return self._directory

    @property
    def capacity(self) -> int:
        """Bytes that may be held by all who share the budget."""
        return self._pool.capacity

    @property
    def short(self) -> int:
        """Bytes over the budget that could not leave at once: writers should wait."""
        return self._pool.short

    @property
    def held(self) -> int:
        """Bytes in all page files."""
        used = sum(f.held for f in self._files.values()) + sum(f.held for f in self._anonymous)
        return used + self._left.held

    def add_reclaimer(self, reclaimer: Reclaimer) -> None:
        """Register who can drop clean pages of files in use when nothing else is left to evict."""
        self._reclaimers.append(reclaimer)

    def open(self, key: str, etag: str, size: int) -> PageFile:
        """The page file of a version, new or found, pinned once more."""
        file = self._find(key, etag)
        if file is None or file.size != size:
            file = PageFile(self._new_path(), size=size, identity=(key, etag))
            self._replace((key, etag), file)
        file.pins += 1
        file.used = clock.monotonic()
        return file

    def cached(self, key: str, etag: str) -> int:
        """How many bytes of a version are here."""
        file = self._find(key, etag)
        return sum(stop - start for start, stop in file.valid) if file is not None else 0

    def holds(self, key: str, etag: str, size: int, first: int | None = None) -> bool:
        """Whether all bytes of a version are here, or its `first` ones."""
        file = self._find(key, etag)
        wanted = size if first is None else first
        return file is not None and file.size == size and file.valid.covers(0, wanted)

    def had(self, key: str) -> bool:
        """Whether an earlier mount has left bytes of some version of an object."""
        return self._left.any and self._left.had(key)

    def touch(self, key: str, etag: str) -> None:
        """A version is wanted: what was used longer ago leaves before it."""
        file = self._find(key, etag)
        if file is not None:
            file.used = clock.monotonic()

    def used_since(self, since: float) -> int:
        """Bytes of files that are in use, unsaved, or were used since a monotonic time."""
        wanted = sum(f.held for f in self._files.values() if f.pins or f.used >= since)
        return wanted + sum(file.held for file in self._anonymous)

    def room(self, since: float) -> int:
        """As `Pool.room`."""
        return self._pool.room(since)

    def evict(self, wanted: Callable[[str], bool]) -> tuple[int, int]:
        """Drop the page files of keys that are chosen, if nobody needs them now.

        Returns:
            How many files went, and how many bytes.
        """
        self._take(self._left.of(wanted))
        files = freed = 0
        for file in list(self.evictable()):
            if file.identity is not None and wanted(file.identity[0]):
                files, freed = files + 1, freed + file.held
                self.drop(file)
        return files, freed

    def create(self) -> PageFile:
        """An empty page file for bytes that are in no bucket yet, pinned once."""
        file = PageFile(self._new_path(), size=0, identity=None)
        file.pins = 1
        self._anonymous.add(file)
        return file

    def take_kept(self, name: str) -> PageFile:
        """The page file of an earlier mount's pending file, whose pin passes over to the caller."""
        return self._kept.pop(name)

    def take_back(self, path: Path, row: PendingRow) -> PageFile:
        """The page file of a file that was put under ``unsaved/``, pinned once.

        Raises:
            OSError: It is not there any more.
        """
        place = path.replace(self._new_path())
        file = PageFile(place, size=row.size, identity=None, exists=True)
        file.valid = Extents(row.valid)
        file.pins = 1
        self._anonymous.add(file)
        self.journal.drop_failed(str(path.relative_to(self._directory)))
        return file

    def own(self, file: PageFile) -> PageFile:
        """A page file with the same bytes that only the caller holds and may change, pinned once.

        The file itself without its identity when nobody else holds it, otherwise a copy; the
        caller's pin on `file` passes over to the answer.
        """
        if file.pins == 1:
            self._detach(file)
            return file
        own = self.fork(file, file.size)
        self.release(file)
        return own

    def fork(self, file: PageFile, size: int) -> PageFile:
        """A page file with the same first `size` bytes that only the caller holds, pinned once.

        Raises:
            FsError: ENOSPC (or what else the disk says).
        """
        file.prove(0, size)
        fork = self.create()
        fork.size = size
        try:
            for start, stop in file.valid.within(0, size):
                for at in range(start, stop, CHUNK):
                    self._copy(file, fork, at, min(at + CHUNK, stop))
        except FsError:
            self.release(fork)
            raise
        return fork

    def _copy(self, file: PageFile, fork: PageFile, start: int, stop: int) -> None:
        self.admit(stop - start)
        # what made room may be clean pages of the very same file, which others have open, too
        for a, b in file.valid.within(start, stop):
            data = file.read(a, b)
            if self.write(fork, a, data) < len(data):
                raise FsError(errno.ENOSPC, "no space left on the disk of the cache")

    def _detach(self, file: PageFile) -> None:
        if file.identity is not None:
            self.index.drop_pages(file.path.name, *file.identity)
            del self._files[file.identity]
            file.identity = None
            self._anonymous.add(file)

    def label(self, file: PageFile, key: str, etag: str, size: int) -> None:
        """Give a file the identity of the version whose bytes it holds now."""
        if file.identity is not None:
            self._detach(file)
        self._anonymous.discard(file)
        file.identity = (key, etag)
        file.size = size
        file.changed = True
        self._replace((key, etag), file)

    def write(self, file: PageFile, offset: int, data: bytes | memoryview) -> int:
        """Store bytes in a page file, evicting others' for them; answers how many were stored.

        Raises:
            FsError: ENOSPC (or what else the disk says) when not one could be.
        """
        view, done = memoryview(data), 0
        failure: OSError | None = None
        self.admit(len(view))
        for last in (False, True):
            try:
                done += file.write(offset + done, view[done:])
            except OSError as error:
                failure = error
            refused = failure is not None and failure.errno not in budget.FULL
            if last or refused or done == len(view):
                break
            with suppress(FsError):  # whether that was enough is seen at once
                self._evict(len(view) - done, at_least=_SLACK)
        if failure is not None and not done:
            raise FsError(
                failure.errno or errno.EIO, f"the cache cannot be written: {failure}"
            ) from failure
        return done

    def relabel(self, key: str, etag: str, new_key: str, new_etag: str) -> None:
        """The version (key, etag) was copied inside the bucket.

        Keep its pages under the copy's name.
        """
        file = self._find(key, etag)
        if file is not None and new_etag:
            self.label(file, new_key, new_etag, file.size)
            if not file.pins:
                self._save(file)

    def rescue(self, file: PageFile, name: str, size: int) -> Path:
        """Keep the bytes of an unsaved file outside the cache, where nothing deletes them.

        They are on the disk, and the file is `size` bytes long, when this returns.

        Raises:
            OSError: The disk refuses.
        """
        path = orphans.unsaved(self._directory) / orphans.name_for(name)
        if file.stored < size:
            os.ftruncate(file.fd, size)  # zeros at the end take no room
        os.fsync(file.fd)
        os.link(file.path, path)
        sync_directory(path.parent)
        sync_directory(self._directory)
        return path

    def shrink(self, file: PageFile, start: int, stop: int) -> None:
        """Give up pages of a file that stays open; the index never tells of more than there is."""
        if file.identity is not None:
            self.index.drop_pages(file.path.name, *file.identity)
        file.drop(start, stop)
        self._pool.short = max(0, self._pool.short - (stop - start))

    def hold(self, file: PageFile) -> PageFile:
        """A page file that somebody has pinned, pinned once more."""
        file.pins += 1
        return file

    def release(self, file: PageFile) -> None:
        """Undo one pin.

        An anonymous file that nobody holds is deleted, any other one is kept for later.
        """
        file.pins -= 1
        if file.pins > 0:
            return
        file.used = clock.monotonic()
        if file.identity is None:
            self._anonymous.discard(file)
            file.unlink()
            return
        self._save(file)
        file.close()

    def admit(self, wanted: int) -> None:
        """Make room for `wanted` bytes that are about to be written.

        Raises:
            FsError: ENOSPC, when the disk has no room even with an empty cache.
        """
        self._pool.since_check += wanted
        if self._pool.since_check >= _CHECK_EVERY:
            self._pool.since_check = 0
            self._evict(wanted)

    def keep_to_budget(self) -> None:
        """Have what is over the budget leave. Raises as `admit`."""
        self._evict(0)

    def close(self) -> None:
        """Save the index, delete what has no name in the bucket, let others have the directory."""
        self._pool.members.remove(self)
        for file in list(self._files.values()):
            self._save(file)
            file.close()
        promised = self._promised()
        self.journal.close()  # a power cut must not leave a row of what goes now
        for file in self._anonymous:
            if promised is None or file.path.name in promised:
                file.close()
            else:
                file.unlink()
        self.index.close(complete=promised == set())
        os.close(self._lock_fd)

    def _promised(self) -> set[str] | None:
        """The files that the journal counts on; None when it cannot be read now."""
        try:
            return {pending.file for pending in self.journal.pending()}
        except FsError as error:
            log.error(
                "cannot read which page files wait, all stay for the next mount: %s", error.why
            )
            return None

    def _save(self, file: PageFile) -> None:
        if file.changed and file.identity is not None:
            key, etag = file.identity
            self.index.put_pages(
                PageRow(
                    file.path.name,
                    key,
                    etag,
                    file.size,
                    file.dump(),
                    clock.wall_ns() / 1e9,
                    file.held,
                )
            )
            file.changed = False

    def _replace(self, identity: tuple[str, str], file: PageFile) -> None:
        old = self._find(*identity)
        self._files[identity] = file
        if old is not None and old is not file:
            self.index.drop_pages(old.path.name, *identity)
            old.identity = None
            if old.pins:
                self._anonymous.add(old)
            else:
                old.unlink()

    def _find(self, key: str, etag: str) -> PageFile | None:
        file = self._files.get((key, etag))
        if file is None and self._left.count and (file := self._left.find(key, etag)):
            self._files[key, etag] = file
        return file

    def _take(self, left: Iterable[PageFile]) -> None:
        """Page files of earlier mounts are to be used, or to be evicted, as all others."""
        for file in left:
            assert file.identity is not None
            self._files[file.identity] = file

    def _new_path(self) -> Path:
        return self._directory / f"{secrets.token_hex(8)}.pages"

    def _evict(self, wanted: int, *, at_least: int = 0) -> None:
        """Have leave what is too much for `wanted` bytes more, and `at_least` so many, if they can.

        The latter for a disk that is full whatever it says: quotas do not show in its free space.

        Raises:
            FsError: As `admit`.
        """
        pool, disk = self._pool, os.statvfs(self._directory)
        held, free = pool.held, disk.f_bavail * disk.f_frsize
        keep = pool.keep_free(disk.f_blocks * disk.f_frsize)
        pool.capacity = budget.capacity(held=held, limit=pool.limit, disk_free=free, keep_free=keep)
        needed = budget.excess(
            held=held, wanted=wanted, limit=pool.limit, disk_free=free, keep_free=keep
        )
        pool.short = 0
        if not (needed or at_least):
            return
        goal = max(needed + pool.slack, at_least)
        unneeded = goal - needed
        for member in pool.members:
            member.take_oldest(goal)
        by_name = {
            file.path.name: (member, file) for member in pool.members for file in member.evictable()
        }
        for name in budget.victims(
            (budget.Candidate(n, f.held, f.used) for n, (_, f) in by_name.items()), goal
        ):
            owner, file = by_name[name]
            goal -= file.held
            owner.drop(file)
        for member in pool.members:
            goal -= member.reclaim(goal)
        pool.short = max(0, goal - unneeded)
        disk = os.statvfs(self._directory)
        if disk.f_bavail * disk.f_frsize < wanted:
            raise FsError(errno.ENOSPC, f"no space left on the disk of the cache {self._directory}")

    def take_oldest(self, wanted: int) -> None:
        """Have the oldest files of earlier mounts among the evictable, up to so many bytes."""
        self._take(self._left.oldest(wanted))

    def evictable(self) -> Iterator[PageFile]:
        """Page files that nobody needs now; of earlier mounts, those that were taken."""
        return (file for file in self._files.values() if not file.pins)

    def reclaim(self, wanted: int) -> int:
        """Have about so many clean bytes of files in use given up; how many were."""
        freed = 0
        for reclaimer in self._reclaimers:
            if freed >= wanted:
                break
            freed += reclaimer(wanted - freed)
        return freed

    def drop(self, file: PageFile) -> None:
        """Delete an evictable page file."""
        assert file.identity is not None
        assert not file.pins
        del self._files[file.identity]
        self.index.drop_pages(file.path.name, *file.identity)
        file.unlink()
