"""What must be so: it hears of every call of a program, of its answer, and of every object.

The contract is docs/semantics.md. Where that allows more than one would think, `allowed` says so.

- `Oracle.stored` and `deleted` look at each change of the bucket as it happens: whole contents
  only, under names that they were given, and nothing goes that nobody removed or replaced.
- A promise is the content of a close or fsync: until the end it must have been in the bucket, as
  the file or a conflict copy, or be under unsaved/, unless its file was changed or removed later.
- A fact is what the last call that nobody interfered with said of a path. It holds until another
  call comes near that path, and at the end.
"""

from __future__ import annotations

import errno
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from tests.simulation import allowed

#: What stands for a directory where a file has its bytes.
DIRECTORY = None


@dataclass(eq=False)
class Call:
    """A call of a program, or a file's life from open to close.

    Attributes:
        mount: Who was asked.
        what: What it is, for people.
        paths: Paths whose names or contents it may change; a file that is renamed meanwhile has
            several.
        began / ended: Virtual seconds.
        asked: When the kernel has asked last: once more after ESTALE.
        disturbed: Another one came near.
        maybe: It has no answer, or an error; what it was to do may have been done.
        moves: A rename: from where to where.
    """

    mount: str
    what: str
    paths: tuple[str, ...]
    began: float
    ended: float = float("inf")
    disturbed: bool = False
    maybe: bool = False
    moves: tuple[str, str] | None = None
    asked: float = field(default_factory=trio.current_time)


@dataclass(frozen=True, eq=False)
class Fact:
    """What a path is.

    Attributes:
        is_there: Whether it is anything.
        content: Its bytes, or `DIRECTORY`.
        mount: Whose call said so.
        since: When that was answered.
        by: What the call was.
    """

    is_there: bool
    content: bytes | None
    mount: str
    since: float
    by: str


@dataclass(eq=False)
class Promise:
    """A content that must not be lost.

    Attributes:
        mount, path, call: Who closed or synced which file, and in which of its lives.
        acknowledged: It succeeded.
        number: Position among all promises.
        released: It may be lost, for a reason in `allowed`.
    """

    mount: str
    path: str
    content: bytes
    call: Call
    acknowledged: bool
    number: int
    released: bool = False


@dataclass
class _Object:
    """One state of a key."""

    content: bytes | None
    mount: str
    since: float
    #: Whose content it is: who copies one has perhaps not seen it.
    author: str


class Oracle:
    """Knows all that was answered.

    Attributes:
        note: Takes a line into the trace.
        violations: What was not as promised.
        verbose: Say where a violation was noticed.
        facts: By path.
        promises: In their order.
    """

    def __init__(self, note: Callable[[str], None], stop: Callable[[], None]) -> None:
        self.note = note
        self.violations: list[str] = []
        self.verbose = False
        self._stop = stop
        self._calls: list[Call] = []
        self._active: list[Call] = []
        self.facts: dict[str, Fact] = {}
        self.promises: list[Promise] = []
        self._renames: set[tuple[str, str]] = set()
        #: Who has copied which content of which key.
        self._copied: set[tuple[str, str, bytes]] = set()
        #: Paths that programs gave to a content that may be published.
        self._legal: dict[bytes, set[str]] = defaultdict(set)
        #: The same for contents that programs of one mount may see.
        self._seen: dict[bytes, set[str]] = defaultdict(set)
        self._history: dict[str, list[_Object]] = defaultdict(list)
        self._with_gaps: list[bytes] = []
        self._cuts: list[tuple[str, int]] = []
        self._directories: set[str] = set()
        #: Mounts that were killed, and when one lost its power last.
        self._crashed: set[str] = set()
        self._power_cut: dict[str, float] = {}

    def complain(self, what: str) -> None:
        """Something is not as it was promised: the run ends."""
        self.note(f"VIOLATION: {what}")
        if self.verbose:
            self.note("".join(traceback.format_stack()))
        self.violations.append(what)
        self._stop()

    # ---- programs --------------------------------------------------------------------------------

    def begin(self, mount: str, what: str, *paths: str) -> Call:
        """A call begins."""
        call = Call(mount, what, paths, trio.current_time())
        for other in self._active:
            if other.mount == mount and other.moves is not None:
                call.paths = _with_moved(call.paths, *other.moves)
        for other in self._active:
            if _touch(call.paths, other.paths):
                call.disturbed = other.disturbed = True
        self._active.append(call)
        self._calls.append(call)
        for path in paths:
            self._directories.update(_above(path))
        self.note(f"{mount} {what} ...")
        return call

    def asked(self, call: Call) -> None:
        """The kernel asks, perhaps again: what is there by now is what the call is about."""
        call.asked = trio.current_time()

    def renaming(self, call: Call, old: str, new: str) -> None:
        """A rename begins: what its mount has open goes along, and is written to there."""
        self._renames.add((old, new))
        for other in self._active:
            if other.mount == call.mount and other is not call:
                other.paths = _with_moved(other.paths, old, new)
        call.moves = old, new

    def directory(self, path: str) -> None:
        """A directory may be made."""
        self._directories.add(path)

    def fail(self, call: Call, error: str, *, nothing: bool = False) -> None:
        """A call ended without success: with `nothing`, surely without effect."""
        self._end(call, error)
        if nothing and not call.disturbed:
            return
        call.maybe = True
        self._forget(call)

    def done(self, call: Call, facts: Mapping[str, bytes | None] | None = None) -> None:
        """A call succeeded; what paths are now."""
        self._end(call, "ok")
        if call.disturbed:
            self._forget(call)
            return
        for path, content in (facts or {}).items():
            if self._is_beside(path, content) or self._is_news(call, path):
                self._drop(path)
                continue
            self._set(path, Fact(True, content, call.mount, call.ended, call.what))
            for above in _above(path):
                if above in self.facts and not self.facts[above].is_there:
                    del self.facts[above]

    def gone(self, call: Call, path: str) -> None:
        """A call succeeded that took a path away."""
        self._end(call, "ok")
        states = self._history[path]
        is_others = states and states[-1].content is not None and states[-1].mount != call.mount
        if is_others or call.disturbed or self._others_wait(call.mount, path):
            self._forget(call)
        else:
            self._drop(path)
            self._set(path, Fact(False, None, call.mount, call.ended, call.what))

    def renamed(self, call: Call, old: str, new: str) -> None:
        """A rename succeeded: of what its mount has, not of what is others'."""
        self._end(call, "ok")
        if call.disturbed or self._is_others(call, old):
            self._forget(call)
            return
        moved = {
            new + path[len(old) :]: fact
            for path, fact in self.facts.items()
            if _is_at(path, old) and fact.is_there
        }
        self._drop(old)
        self._drop(new)
        for path, fact in moved.items():
            self._set(path, Fact(True, fact.content, call.mount, call.ended, call.what))
        self._set(old, Fact(False, None, call.mount, call.ended, call.what))

    def promise(
        self,
        call: Call,
        path: str,
        content: bytes,
        *,
        acknowledged: bool,
        in_bucket: bool = False,
        code: int = 0,
    ) -> None:
        """A close or fsync of this content was answered, with or without success."""
        how = errno.errorcode.get(code, "ok")
        self.note(f"{call.mount} {call.what}: {brief(content)} {how}")
        promise = Promise(call.mount, path, content, call, acknowledged, len(self.promises))
        if in_bucket:
            self._check_promise(promise, set())
        self.promises.append(promise)

    def closed_unheard(self, call: Call, path: str, content: bytes) -> None:
        """A file was closed with this content, and nobody is there to hear how that went."""
        self.promises.append(
            Promise(call.mount, path, content, call, False, len(self.promises), released=True)
        )

    def publishable(self, path: str, content: bytes) -> None:
        """From now on this content of a file may be in the bucket."""
        self._legal[content].add(path)
        self._seen[content].add(path)

    def visible(self, path: str, content: bytes) -> None:
        """A file has this content for programs of its mount."""
        self._seen[content].add(path)

    def fact(self, path: str) -> Fact | None:
        """What a path is, if nobody is near it now."""
        if any(_touch((path,), call.paths) for call in self._active):
            return None
        return self.facts.get(path)

    def check_read(self, mount: str, path: str, content: bytes, before: Fact | None) -> None:
        """A program has read a whole file, from its open on; `before` is the fact at that time."""
        if not self._may_be(content, path, self._seen):
            self.complain(f"{mount} read of {path}: {brief(content)} was never there")
        fact = self.fact(path)
        if before is None or fact is not before or not fact.is_there:
            return
        if fact.content != content and self._must_know(mount, path, fact):
            self.complain(
                f"{mount} read {brief(content)} of {path}, it is {brief(fact.content)} by {fact.by}"
            )

    def check_same(self, mount: str, path: str, first: bytes, second: bytes) -> None:
        """A program has read an open file twice, and nobody here has written any file between."""
        if any(call.mount == mount and _touch((path,), call.paths) for call in self._active):
            return
        if first != second:
            self.complain(f"{mount} read {brief(first)} of {path}, then {brief(second)}")

    def check_missing(
        self, mount: str, path: str, before: Fact | None, code: int, mine: Call | None = None
    ) -> None:
        """A program was told that a path is not there; `mine` is its own call."""
        if code != errno.ENOENT or before is None or not before.is_there:
            return
        fact = self.facts.get(path) if mine is not None else self.fact(path)
        if fact is before and mount == fact.mount:
            self.complain(f"{mount} does not find {path}, which it has from {fact.by}")

    def check_taken(self, mount: str, path: str, before: Fact | None) -> None:
        """A program was told that there is something at a path."""
        if before is None or before.is_there or before.mount != mount:
            return
        if self.facts.get(path) is before:
            self.complain(f"{mount} still has {path} after {before.by}")

    def check_names(
        self, mount: str, path: str, found: set[str], before: Mapping[str, Fact]
    ) -> None:
        """A program has read a directory; `before` are the facts when it began."""
        for each, fact in before.items():
            if each.rpartition("/")[0] != path or fact.mount != mount:
                continue
            is_known = self.fact(each) is fact
            if is_known and fact.is_there != (each.rpartition("/")[2] in found):
                self.complain(f"{mount} lists {sorted(found)} in {path or '/'} after {fact.by}")

    def cutting(self, path: str, size: int) -> None:
        """Whatever a file contains, it may get this length from now on."""
        self._cuts.append((path, size))

    def _may_be(self, content: bytes, path: str, known: Mapping[bytes, set[str]]) -> bool:
        """Whether a file of this name may have a content, `known` being those that are named."""
        names = self.names(path)
        if any(path in self.names(name) or name in names for name in known.get(content, ())):
            return True
        return any(
            len(content) == size
            and (names & self.names(cut) or path in self.names(cut))
            and any(each[:size].ljust(size, b"\0") == content for each in self._seen)
            for cut, size in self._cuts
        )

    def _must_know(self, mount: str, path: str, fact: Fact) -> bool:
        """Whether close-to-open gives a mount this content of a file."""
        if mount == fact.mount:
            return True
        if any(p.mount == mount and path in self.names(p.path) for p in self._waiting()):
            return False  # it has a version of its own
        states = self._history.get(path)
        if not states or states[-1].content != fact.content:
            return False  # it waits for its upload
        return trio.current_time() - max(fact.since, states[-1].since) > allowed.READ_AGE

    def names_back(self, mount: str) -> None:
        """The log says that names which were removed are back: they could not be deleted.

        "If a deletion fails, the name is back, the log says why" ("Directories and rename").
        """
        for path, fact in list(self.facts.items()):
            if fact.mount == mount and not fact.is_there:
                self._drop(path)

    # ---- crashes ---------------------------------------------------------------------------------

    def crashed(self, mount: str, *, journal_synced: float | None) -> None:
        """A mount was killed; with a power cut its journal had been synced at a time."""
        for call in [call for call in self._active if call.mount == mount]:
            self.fail(call, "killed")
        self._crashed.add(mount)
        if journal_synced is None:
            return
        self._power_cut[mount] = trio.current_time()
        for path, fact in list(self.facts.items()):
            if fact.mount == mount and allowed.lost_by_power_cut(fact, journal_synced):
                self._drop(path)
        for promise in self.promises:
            if promise.mount == mount and not promise.acknowledged:
                promise.released = True

    # ---- the bucket ------------------------------------------------------------------------------

    def stored(self, mount: str, key: str, old: bytes | None, new: bytes, terms: str) -> None:
        """An object was made or replaced."""
        now = trio.current_time()
        self.note(f"    bucket: {mount} {terms} {key!r} {brief(old)} -> {brief(new)}")
        before = self._history[key][-1] if self._history[key] else None
        author = mount
        if terms.startswith("copy"):
            source = terms.partition(" of ")[2]
            self._copied.add((mount, source, new))
            author = next(
                (each.author for each in reversed(self._history[source]) if each.content == new),
                mount,
            )
        self._history[key].append(_Object(new, mount, now, author))
        if key.endswith("/"):
            self._check_marker(mount, key)
            return
        self._check_content(mount, key, old, new, terms)
        if old is None or old == new or before is None:
            return
        if terms in {"put", "complete"} and before.mount != mount:
            self.complain(f"{mount} replaced {key} of {before.mount} without a condition")
        is_copy = terms.startswith("copy of") and before.mount != mount
        if is_copy and not allowed.renaming_replaces(self._near(mount, key), before.since):
            self.complain(f"{mount} replaced {key} of {before.mount} by a copy")

    def deleted(self, mount: str, key: str, old: bytes) -> None:
        """An object was deleted."""
        now = trio.current_time()
        before = self._history[key][-1]
        self._history[key].append(_Object(None, mount, now, mount))
        self.note(f"    bucket: {mount} delete {key!r} {brief(old)}")
        path = key.rstrip("/")
        calls = [
            call
            for call in self._near(mount, path)
            if call.what.startswith(("unlink", "rmdir", "rename"))
        ]
        if not calls:
            self.complain(f"{mount} deleted {key}, which nobody there removed")
        if key.endswith("/"):
            return
        in_time = any(call.ended + allowed.DELETED_LATER >= before.since for call in calls)
        # what was copied to another name is not lost, be it of others or the same bytes again
        is_safe = before.mount == mount or (mount, key, old) in self._copied
        if in_time and (is_safe or allowed.removing_replaced(calls, before.since)):
            if not is_safe:
                self._drop(path)  # what others had stored there is gone with it
            return
        if any(call.maybe for call in calls) and mount in self._crashed:
            return
        self.complain(f"{mount} deleted {key}, which {before.mount} stored after the removal")

    def _check_marker(self, mount: str, key: str) -> None:
        path = key.rstrip("/")
        if not any(path in self.names(directory) for directory in self._directories):
            self.complain(f"{mount} made the directory {key}, which nobody asked for")

    def _check_content(
        self, mount: str, key: str, old: bytes | None, content: bytes, terms: str
    ) -> None:
        path, is_copy, _ = key.partition(".conflict-")
        if is_copy:
            self._drop(path)
            states = self._history[path]
            is_own = not states or mount == states[-1].mount == states[-1].author
            is_left = terms.startswith("copy") or any(
                call.what.startswith("rename") and call.maybe for call in self._near(mount, path)
            )
            stale = allowed.stale_copy(self._power_cut.get(mount)) or is_left
            if is_own and old is None and not stale:
                self.complain(f"{mount} made {key} without a conflict")
        if is_copy and allowed.has_gaps(content, self._legal):
            self._with_gaps.append(content)
            return
        if mount in self._crashed and self._is_mixed(content, path):
            return
        if not self._may_be(content, path, self._legal):
            given = sorted(self._legal.get(content, ()))
            self.complain(f"{mount} stored {brief(content)} as {key}, closed as {given}")

    def _is_mixed(self, content: bytes, path: str) -> bool:
        names = self.names(path)
        known = [each for each, paths in self._seen.items() if paths & names]
        return allowed.is_mixed(content, known)

    # ---- the end ---------------------------------------------------------------------------------

    def check_end(self, objects: Mapping[str, bytes], unsaved: Iterable[bytes]) -> None:
        """Nothing is open, everything has been unmounted: is all there, and nothing else?"""
        left = set(unsaved)
        for promise in self.promises:
            self._check_promise(promise, left)
        for path, fact in sorted(self.facts.items()):
            self._check_fact(path, fact, objects)

    def _check_promise(self, promise: Promise, left: set[bytes]) -> None:
        if promise.released or promise.content in left or self._is_published(promise):
            return
        if any(allowed.has_gaps(copy, [promise.content]) for copy in self._with_gaps):
            return
        names = self.names(promise.path)
        if any(other.call is promise.call for other in self.promises[promise.number + 1 :]):
            return  # it was written on after an earlier close
        later = [
            call
            for call in self._calls
            if call is not promise.call
            and call.mount == promise.mount
            and call.ended >= promise.call.began
            and any(_is_at(name, path) for name in names for path in call.paths)
        ]
        if not later:
            how = "acknowledged" if promise.acknowledged else "failed"
            self.complain(
                f"{promise.path}: {brief(promise.content)} of {promise.call.what} by"
                f" {promise.mount} ({how}) is lost"
            )

    def _waiting(self) -> Iterator[Promise]:
        """Promises that may not be in the bucket yet; of empty files one looks like the other."""
        return (p for p in self.promises if not p.content or not self._is_published(p))

    def _is_others(self, call: Call, path: str) -> bool:
        """Whether a path is another mount's in the bucket, or may yet be, unknown to who calls."""
        if self._others_wait(call.mount, path):
            return True
        states = self._history[path]
        if not states or states[-1].content is None or states[-1].mount == call.mount:
            return False
        return self._is_news(call, path) or any(
            p.mount == call.mount and path in self.names(p.path) for p in self._waiting()
        )

    def _is_news(self, call: Call, path: str) -> bool:
        """Whether others changed a path so late that a call that asked nothing need not know it."""
        states = self._history.get(path)
        if not states or states[-1].mount == call.mount:
            return False
        return call.began - states[-1].since < allowed.READ_AGE

    def _others_wait(self, mount: str, path: str) -> bool:
        """Whether other mounts have promised something at or below a path that may yet come."""
        return any(
            p.mount != mount and any(_is_at(name, path) for name in self.names(p.path))
            for p in self._waiting()
        )

    def _is_published(self, promise: Promise) -> bool:
        """Whether the bucket has had it, under the file's names or as a conflict copy."""
        names = self.names(promise.path)
        return any(
            key.partition(".conflict-")[0] in names
            and any(state.content == promise.content for state in states)
            for key, states in self._history.items()
        )

    def _is_beside(self, path: str, content: bytes | None) -> bool:
        """Whether a conflict copy has this content, perhaps instead of the file.

        A mount that waits for the answer to such an upload lets programs go on with the file.
        """
        return any(
            key.startswith(f"{path}.conflict-")
            and any(state.content == content for state in states)
            for key, states in self._history.items()
            if content is not DIRECTORY
        )

    def _check_fact(self, path: str, fact: Fact, objects: Mapping[str, bytes]) -> None:
        below = [key for key in objects if key == path or key.startswith(path + "/")]
        if not fact.is_there:
            if below:
                self.complain(f"{path} is back ({below}), {fact.mount} had {fact.by}")
        elif fact.content is DIRECTORY:
            if not below:
                self.complain(f"the directory {path} is gone, {fact.mount} had {fact.by}")
        elif path not in objects:
            self.complain(f"{path} is gone, {fact.mount} had {fact.by}")
        elif objects[path] != fact.content:
            self.complain(
                f"{path} is {brief(objects[path])}, not {brief(fact.content)} of {fact.mount},"
                f" {fact.by}"
            )

    # ---- helpers ---------------------------------------------------------------------------------

    def names(self, path: str) -> set[str]:
        """Names that a file of this name may have got by renaming, itself among them."""
        found, waiting = {path}, [path]
        while waiting:
            name = waiting.pop()
            for old, new in self._renames:
                if _is_at(name, old) and len(name) < 100:
                    moved = new + name[len(old) :]
                    if moved not in found:
                        found.add(moved)
                        waiting.append(moved)
        return found

    def _near(self, mount: str, path: str) -> list[Call]:
        """Calls of a mount, past and present, that may change a path."""
        return [
            call
            for call in self._calls
            if call.mount == mount and any(_is_at(path, each) for each in call.paths)
        ]

    def _end(self, call: Call, answer: str) -> None:
        call.ended = trio.current_time()
        self._active.remove(call)
        self.note(f"{call.mount} {call.what}: {answer}{' (disturbed)' if call.disturbed else ''}")

    def _forget(self, call: Call) -> None:
        for path in call.paths:
            self._drop(path)
            for above in _above(path):
                if above in self.facts and not self.facts[above].is_there:
                    del self.facts[above]

    def _drop(self, path: str) -> None:
        for each in [each for each in self.facts if _is_at(each, path)]:
            del self.facts[each]

    def _set(self, path: str, fact: Fact) -> None:
        self.facts[path] = fact


def _is_at(path: str, above: str) -> bool:
    """Whether a path is another one or below it."""
    return path == above or path.startswith(above + "/")


def _with_moved(paths: Sequence[str], old: str, new: str) -> tuple[str, ...]:
    """Paths, and what they are called after a rename."""
    moved = [new + path[len(old) :] for path in paths if _is_at(path, old)]
    return tuple(dict.fromkeys((*paths, *moved)))


def _touch(some: Iterable[str], others: Iterable[str]) -> bool:
    return any(_is_at(a, b) or _is_at(b, a) for a in some for b in others)


def _above(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def brief(content: bytes | None) -> str:
    """A content for people: length, first bytes."""
    return "-" if content is None else f"<{len(content)}: {content[:4].hex()}>"
