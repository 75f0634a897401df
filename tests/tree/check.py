"""What has to hold of a tree whenever no task runs: after each verb of a test, and at any await.

`check` only looks; it asks the bucket for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from bucketfs.cache.extents import Extents
from bucketfs.cache.pages import PageFile
from bucketfs.cache.rows import PendingRow, encode
from bucketfs.file.content import Content
from bucketfs.tree.core.inode import Directory, Inode, OpenState
from bucketfs.tree.core.stages import ATTEMPTING, OURS_TO_SAVE, Stage
from bucketfs.tree.tree import Tree

#: Bytes by which the file system may change its mind about a file that was closed meanwhile.
SLACK = 64 << 10


def check(tree: Tree, *, ended: bool = False, at_rest: bool = False) -> None:
    """Raise AssertionError with everything that is wrong.

    Args:
        tree: Which.
        ended: All its tasks have ended, perhaps in the middle of something.
        at_rest: As `ended`, and nothing was left undone: no program has anything open.
    """
    wrong = [*_names(tree), *_lives(tree), *_stages(tree), *_leaving(tree), *_journal(tree)]
    wrong += _pages(tree)
    if ended or at_rest:
        wrong += _ended(tree)
    if not ended:
        wrong += _tried(tree)
    if at_rest:
        wrong += _at_rest(tree)
    assert not wrong, "\n".join(wrong)


def _inodes(tree: Tree) -> set[Inode]:
    """All that are in the tree, known to the kernel, or open."""
    found: set[Inode] = {*tree.state.table._known.values(), *tree.state.open_inodes}
    waiting: list[Inode] = [tree.state.root, *found]
    while waiting:
        inode = waiting.pop()
        found.add(inode)
        if isinstance(inode, Directory):
            waiting += [child for child in inode.children.values() if child not in found]
    return found


def _open_inodes(tree: Tree) -> Iterator[tuple[Inode, OpenState, str]]:
    for inode in tree.state.open_inodes:
        if inode.open_state is not None:
            yield inode, inode.open_state, repr(tree.state.shown(inode))


def _contents(tree: Tree) -> Iterator[tuple[Inode, OpenState, Content, str]]:
    for inode, open_state, shown in _open_inodes(tree):
        if open_state.content is not None:
            yield inode, open_state, open_state.content, shown


def _names(tree: Tree) -> Iterator[str]:
    for inode in _inodes(tree):
        shown = repr(tree.state.shown(inode))
        if (inode.open_state is not None) != (inode in tree.state.open_inodes):
            yield f"{shown}: has open state and is not among the open inodes, or the other way"
        if not isinstance(inode, Directory):
            continue
        for name, child in inode.children.items():
            if child.parent is not inode or child.name != name:
                yield f"{shown}: its entry {name!r} does not know so"
        if inode.subdirectories != sum(isinstance(c, Directory) for c in inode.children.values()):
            yield f"{shown}: counts {inode.subdirectories} subdirectories"
        if inode.asking < 0 or (inode.removed and inode not in tree.state._removed_in):
            yield f"{shown}: remembers removed names for nobody"


def _lives(tree: Tree) -> Iterator[str]:
    for _, open_state, shown in _open_inodes(tree):
        if open_state.users < 0:
            yield f"{shown}: {open_state.users} users"
    for inode, open_state, content, shown in _contents(tree):
        if not 0 <= content.writers <= content.handles:
            yield f"{shown}: {content.writers} writers of {content.handles} handles"
        if open_state.unlinked and content.promise is not None:
            yield f"{shown}: is removed and promised"
        base = content.base
        clean = base is not None and not content.unsaved and inode.parent is not None
        if clean and base is not None and base.etag != inode.etag:
            yield f"{shown}: its bytes are of {base.etag}, not of {inode.etag}"
        yield from (f"{shown}: {wrong}" for wrong in _bytes(content))


def _stages(tree: Tree) -> Iterator[str]:
    """Whether each inode's stage is what the facts say."""
    for inode, open_state, shown in _open_inodes(tree):
        stage = open_state.stage
        if stage in ATTEMPTING:
            if not tree.locks.is_held(inode):
                yield f"{shown}: is {stage} by nobody who may"
        elif stage is not (expected := _expected(open_state)):
            yield f"{shown}: is {stage} and should be {expected}: {open_state}"
        content = open_state.content
        if content is not None and content.publishing and stage not in ATTEMPTING:
            yield f"{shown}: is being published and {stage}"
        if bool(open_state.tries) != bool(open_state.error):
            yield f"{shown}: {open_state.tries} tries failed, with {open_state.error!r}"
        waits = stage not in (Stage.CLEAN, Stage.DIRTY, Stage.REMOVED)
        if (waits and not open_state.since) or (stage is Stage.CLEAN and open_state.since):
            yield f"{shown}: is {stage} and waits since {open_state.since}"
        if stage is Stage.REMOVED and (inode.parent is not None or open_state.attributes_unsaved):
            yield f"{shown}: is removed, with a name or attributes that are to be saved"


def _expected(open_state: OpenState) -> Stage:
    """The stage while no attempt is under way, told from the facts."""
    if open_state.unlinked:
        return Stage.REMOVED
    if not open_state.unsaved:
        return Stage.CLEAN
    if open_state.being_written:
        return Stage.DIRTY
    if not open_state.error:
        return Stage.PROMISED
    return Stage.GIVEN_UP if open_state.stage is Stage.GIVEN_UP else Stage.RETRYING


def _bytes(content: Content) -> Iterator[str]:
    """Whether each byte of a file is somewhere (see `Overlay`)."""
    pages, limit = content.local.pages, content.overlay.limit
    somewhere = Extents([*pages.valid, *content.overlay.lost])
    if content.early_upload.stream is not None:
        for start, stop in content.early_upload.stream.upload_only:
            somewhere.add(start, stop)
    if content.overlay.dirty.end > content.size:
        yield f"is dirty up to {content.overlay.dirty.end} of {content.size} bytes"
    gaps = [gap for extent in content.overlay.dirty for gap in somewhere.missing(*extent)]
    if limit < content.size:
        gaps += somewhere.missing(limit, content.size)
    if gaps:
        yield f"bytes {gaps} are nowhere"
    if limit and content.base is None:
        yield f"{limit} bytes of no version"


def _leaving(tree: Tree) -> Iterator[str]:
    state, removals = tree.state, tree.removals
    if state.leaving.keys() != removals._items.keys():
        yield "other directories are leaving than there are removals of"
    for directory, names in state.leaving.items():
        shown = repr(state.shown(directory))
        if directory.open_state is None or directory.open_state.users < 1:
            yield f"{shown}: nothing keeps it while names of it are leaving"
        for name in names.keys() & directory.children.keys():
            yield f"{shown}: {name!r} is leaving and there"
    for key, inode in state.deferred.items():
        if (
            inode.open_state is None
            or inode.open_state.deferred_delete != key
            or not inode.open_state.unlinked
        ):
            yield f"{key!r} is not deleted by the last close of its file"
    for _, open_state, shown in _open_inodes(tree):
        if open_state.deferred_delete and open_state.deferred_delete not in state.deferred:
            yield f"{shown}: shall delete {open_state.deferred_delete!r}, which is shown"


def _journal(tree: Tree) -> Iterator[str]:
    journal, cache = tree.state.files.cache.journal, tree.state.files.cache
    if journal._owed:
        return  # the disk has refused
    rows = {row.file: row for row in journal.pending() if not row.error}
    promises = {c.promise.row.file: c.promise for *_, c, _ in _contents(tree) if c.promise}
    if unknown := rows.keys() - promises.keys() - cache._kept.keys():
        yield f"rows of no promise: {[rows[file].key for file in unknown]}"
    for file, promise in promises.items():
        if file not in rows:
            yield f"{promise.row.key!r} is promised and has no row"
        elif _said(rows[file]) != _said(promise.row):
            yield f"the row of {promise.row.key!r} says {rows[file]}"
    pending, size = tree.promises, sum(promise.row.size for promise in promises.values())
    if (pending.count, pending.bytes) != (len(promises), size):
        yield f"{pending.count} promises, {pending.bytes} bytes: it is {len(promises)}, {size}"
    removals = {row.key for row in journal.removals()}
    if missing := tree.state.deferred.keys() - removals:
        yield f"removed, and a crash would bring back: {missing}"
    uploads = {row.upload_id for row in journal.uploads()}
    for *_, content, shown in _contents(tree):
        stream = content.early_upload.stream
        if stream is not None and stream.upload_id and stream.upload_id not in uploads:
            yield f"{shown}: a crash would leave its upload {stream.upload_id}"


def _said(row: PendingRow) -> tuple[object, ...]:
    """A row without the moment of its writing."""
    return (row.key, *encode(replace(row, written=0)))


def _users(tree: Tree) -> Counter[PageFile]:
    """How often each page file is in use."""
    cache = tree.state.files.cache
    users = Counter([*tree.promises._outdated, *cache._kept.values()])
    for *_, content, _ in _contents(tree):
        users[content.local.pages] += 1
        if content.promise is not None and content.promise.pages is not content.local.pages:
            users[content.promise.pages] += 1
    return users


def _pages(tree: Tree) -> Iterator[str]:
    cache, users = tree.state.files.cache, _users(tree)
    named, nameless = set(cache._files.values()), cache._anonymous
    for pages in {*named, *nameless, *users}:
        name = pages.path.name
        if pages.pins < users[pages]:  # a test may have it open itself
            yield f"{name}: {pages.pins} pins, {users[pages]} users"
        if (pages.identity is None) != (pages in nameless) or (pages in named) == (
            pages in nameless
        ):
            yield f"{name}: {pages.identity} is under no name or a wrong one"
        if not pages.pins and pages.identity is None:
            yield f"{name}: nobody uses it"
        if abs(pages.held - _disk(pages)) > SLACK:
            yield f"{name}: holds {_disk(pages)} bytes of disk, not {pages.held}"
    known = {pages.path for pages in (*named, *nameless)}
    known |= {cache.directory / name for name in cache.index.files()}
    if left := set(cache.directory.glob("*.pages")) - known:
        yield f"page files that nobody knows: {[path.name for path in left]}"


def _disk(pages: PageFile) -> int:
    return pages.path.stat().st_blocks * 512 if pages.path.exists() else 0


def _tried(tree: Tree) -> Iterator[str]:
    """What is unsaved has somebody who saves it."""
    for _, open_state, shown in _open_inodes(tree):
        handles, content = 0, open_state.content
        if content is not None:
            handles = content.handles
            if open_state.stage in OURS_TO_SAVE and content.unsaved:
                # who has it open for reading saves nothing; a truncation of its path does
                handles -= len(content.local.readers) - content.writers
        cared_for = (
            handles or open_state.users or open_state.retrying or open_state.saving_attributes
        )
        if open_state.unsaved and not cared_for:
            yield f"{shown}: is unsaved, and nobody tries to save it"


def _ended(tree: Tree) -> Iterator[str]:
    state = tree.state
    if tree.attributes._asking or tree.finder._looking or state._asking_everywhere:
        yield "an answer is waited for"
    for inode in _inodes(tree):
        shown = repr(state.shown(inode))
        users = inode.open_state.users if inode.open_state is not None else 0
        if users != (inode in state.leaving) or tree.locks.is_held(inode):
            yield f"{shown}: {users} users"
        if isinstance(inode, Directory) and (inode.asking or inode.loading or inode.renaming):
            yield f"{shown}: is being asked for, listed or renamed"
    for *_, content, shown in _contents(tree):
        local, stream = content.local, content.early_upload.stream
        if content.publishing or local._kept or content.upload:
            yield f"{shown}: is being published or loaded"
        if local._flights or local._awaited:
            yield f"{shown}: is being fetched"
        if stream is not None and (stream._running or stream._busy or stream._waiting):
            yield f"{shown}: is being sent"


def _at_rest(tree: Tree) -> Iterator[str]:
    state = tree.state
    if state.leaving or state.deferred:
        yield f"not deleted: {[*state.leaving.values(), *state.deferred]}"
    for _, open_state, shown in _open_inodes(tree):
        yield f"{shown}: open for nothing: {open_state}"
    for pages, users in _users(tree).items():
        if pages.pins != users:
            yield f"{pages.path.name}: {pages.pins} pins, {users} users"
