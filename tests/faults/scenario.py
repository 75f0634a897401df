"""What programs do in the fault tests, step by step, and what may be true afterwards.

A step begins with some objects in a bucket and does a few actions. Each action is a change of a
*world* (path to `Entry`): one that succeeded has happened, one that failed has happened or not, and
never half. So a step ends in one of a few worlds, and the bucket must be one of them.

The steps know nothing of how files are reached: `Files` is a mount of the kernel's, or a tree
without one.
"""

from __future__ import annotations

import itertools
import random
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A file ("-"), directory ("d") or symbolic link ("l", whose data is its target)."""

    kind: str
    data: bytes = b""
    perm: int = 0o644

    def __repr__(self) -> str:
        return f"{self.kind}{self.perm:o} {len(self.data)} bytes #{hash(self.data) % 9973}"


DIRECTORY = Entry("d", b"", 0o755)
World = dict[str, Entry]


class Files(Protocol):
    """How a step reaches files; everything raises OSError. Paths are relative."""

    async def save(self, path: str, data: bytes, *, piece: int) -> None:
        """Create or empty, write in pieces, close."""

    async def save_synced(self, path: str, head: bytes, tail: bytes) -> None:
        """Create, write the head, fsync, write the tail, close."""

    async def patch(self, path: str, offset: int, data: bytes) -> None:
        """Open, write there, close."""

    async def truncate(self, path: str, size: int) -> None: ...
    async def rename(self, old: str, new: str) -> None: ...
    async def chmod(self, path: str, perm: int) -> None: ...
    async def symlink(self, target: str, path: str) -> None: ...
    async def mkdir(self, path: str) -> None: ...
    async def rmdir(self, path: str) -> None: ...
    async def unlink(self, path: str) -> None: ...
    async def read(self, path: str, start: int, length: int) -> bytes: ...
    async def entries(self, path: str) -> Mapping[str, tuple[str, int]]:
        """Of each name in a directory its kind and size, as ``ls -l`` asks for them."""

    async def entry(self, path: str) -> Entry: ...


@dataclass(frozen=True)
class Action:
    """One thing a program does.

    Attributes:
        run: Does it, and checks what it answers.
        after: The world once it has happened.
        half: Worlds that a failure may leave beside that and the one before.
    """

    run: Callable[[Files], Awaitable[None]]
    after: Callable[[World], World] = lambda world: world
    half: Callable[[World], Iterable[World]] = lambda world: ()

    def failed(self, world: World) -> list[World]:
        return [world, self.after(world), *self.half(world)]


@dataclass(frozen=True)
class Step:
    """A few actions on a bucket that holds `before`; the names below `before` exist as objects."""

    name: str
    before: World
    actions: Sequence[Action]


def noise(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)


def parents(world: World) -> World:
    """The world with the directories that its paths imply."""
    whole = dict(world)
    for path in world:
        at = path.find("/")
        while at >= 0:
            whole.setdefault(path[:at], DIRECTORY)
            at = path.find("/", at + 1)
    return whole


def of_objects(objects: Iterable[tuple[str, bytes, Mapping[str, str]]]) -> World:
    """The world that a bucket's objects (key, body, user metadata) stand for."""
    world: World = {}
    for key, body, metadata in objects:
        mode = int(metadata.get("mode", "0"))
        if key.endswith("/"):
            world[key[:-1]] = Entry("d", b"", stat.S_IMODE(mode) or 0o755)
        else:
            kind = "l" if stat.S_ISLNK(mode) else "-"
            world[key] = Entry(kind, body, stat.S_IMODE(mode) or 0o644)
    return parents(world)


def put(path: str, entry: Entry) -> Callable[[World], World]:
    return lambda world: {**world, path: entry}


def without(*paths: str) -> Callable[[World], World]:
    return lambda world: {path: entry for path, entry in world.items() if path not in paths}


def moved(old: str, new: str) -> Callable[[World], World]:
    def after(world: World) -> World:
        kept = {path: entry for path, entry in world.items() if path != new}
        return {
            new + path[len(old) :] if _is_in(path, old) else path: entry
            for path, entry in kept.items()
        }

    return after


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


def both(old: str, new: str) -> Callable[[World], Iterable[World]]:
    """A renaming that stopped between its copies and its deletions: nothing is missing."""

    def half(world: World) -> Iterable[World]:
        after = moved(old, new)(world)
        left = [path for path in world if _is_in(path, old)]
        for count in range(1, len(left) + 1):
            for some in itertools.combinations(left, count):
                yield parents({**after, **{path: world[path] for path in some}})

    return half


def save(path: str, data: bytes, piece: int = 1 << 20) -> Action:
    return Action(lambda files: files.save(path, data, piece=piece), put(path, Entry("-", data)))


def patched(path: str, offset: int, data: bytes) -> Action:
    def after(world: World) -> World:
        old = world[path]
        body = old.data.ljust(offset, b"\0")
        whole = body[:offset] + data + body[offset + len(data) :]
        return {**world, path: Entry("-", whole, old.perm)}

    return Action(lambda files: files.patch(path, offset, data), after)


def truncated(path: str, size: int) -> Action:
    def after(world: World) -> World:
        old = world[path]
        return {**world, path: Entry("-", old.data[:size].ljust(size, b"\0"), old.perm)}

    return Action(lambda files: files.truncate(path, size), after)


def renamed(old: str, new: str) -> Action:
    return Action(lambda files: files.rename(old, new), moved(old, new), both(old, new))


def removed(path: str, *, directory: bool = False) -> Action:
    def run(files: Files) -> Awaitable[None]:
        return files.rmdir(path) if directory else files.unlink(path)

    return Action(run, without(path))


def reads(path: str, data: bytes, *ranges: tuple[int, int]) -> Action:
    async def run(files: Files) -> None:
        for start, length in ranges or [(0, len(data) + 1)]:
            assert await files.read(path, start, length) == data[start : start + length]

    return Action(run)


def lists(path: str, world: World) -> Action:
    async def run(files: Files) -> None:
        found = await files.entries(path)
        assert {name: size for name, (kind, size) in found.items() if kind == "-"} == {
            name.removeprefix(path + "/"): len(entry.data)
            for name, entry in world.items()
            if entry.kind == "-"
        }

    return Action(run)


@dataclass
class Scenario:
    """All steps. Those of the second group need the parts and streams of a store made small.

    Args:
        unit: Bytes of a part.
    """

    unit: int
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        small, other = noise(1000, 1), noise(700, 2)
        large, larger = noise(2 * self.unit + 777, 3), noise(2 * self.unit + 99, 4)
        self.unit_data = noise(4 * self.unit, 5)
        self._writing(small, other, large, larger)
        self._changing(small, other)
        self._names(small, other)
        self._reading(small, large)

    def _add(self, name: str, before: World, *actions: Action) -> None:
        self.steps.append(Step(name, before, actions))

    def _writing(self, small: bytes, other: bytes, large: bytes, larger: bytes) -> None:
        self._add("create", {}, save("f", small))
        self._add("create below", {"d/a": Entry("-", other)}, save("d/f", small))
        self._add("create empty", {}, save("f", b""))
        self._add("create large", {}, save("f", large))
        self._add("stream", {}, save("f", noise(6 * self.unit, 6), piece=self.unit // 2))
        self._add("overwrite", {"f": Entry("-", small)}, save("f", other))
        self._add("overwrite large", {"f": Entry("-", large)}, save("f", larger))
        synced = Action(
            lambda files: files.save_synced("f", small, other),
            put("f", Entry("-", small + other)),
            lambda world: [{**world, "f": Entry("-", small)}],
        )
        self._add("fsync", {}, synced)
        self._add("create and rename", {}, save("f", small), renamed("f", "g"))

    def _changing(self, small: bytes, other: bytes) -> None:
        big = self.unit_data
        self._add("append", {"f": Entry("-", small)}, patched("f", len(small), other))
        self._add("append large", {"f": Entry("-", big)}, patched("f", len(big), other))
        self._add("patch", {"f": Entry("-", small)}, patched("f", 100, b"patch"))
        self._add("patch large", {"f": Entry("-", big)}, patched("f", 2 * self.unit, other))
        self._add("truncate", {"f": Entry("-", small)}, truncated("f", 10))
        self._add("truncate large", {"f": Entry("-", big)}, truncated("f", 3 * self.unit + 5))

        async def run(files: Files) -> None:
            await files.chmod("f", 0o600)

        self._add("chmod", {"f": Entry("-", small)}, Action(run, _with_perm("f", 0o600)))

    def _names(self, small: bytes, other: bytes) -> None:
        file, second = Entry("-", small), Entry("-", other)
        self._add("rename", {"f": file}, renamed("f", "g"))
        self._add("rename over", {"f": file, "g": second}, renamed("f", "g"))
        tree = {"d": DIRECTORY, "d/a": file, "d/b": second, "d/s/c": file}
        self._add("rename directory", tree, renamed("d", "e"))
        link = Action(lambda files: files.symlink("aim", "l"), put("l", Entry("l", b"aim", 0o777)))
        self._add("symlink", {}, link)
        self._add("mkdir", {}, Action(lambda files: files.mkdir("d"), put("d", DIRECTORY)))
        self._add("rmdir", {"d": DIRECTORY}, removed("d", directory=True))
        self._add("unlink", {"f": file, "g": second}, removed("f"))
        self._add("unlink last", {"d/f": file}, removed("d/f"))
        names = [f"d/{number:02}" for number in range(12)]
        self._add(
            "rm -r",
            {"d": DIRECTORY, **dict.fromkeys(names, file)},
            *map(removed, names),
            Action(lambda files: files.rmdir("d"), without("d"), _some_back(names[8:], file)),
        )

    def _reading(self, small: bytes, large: bytes) -> None:
        world = {f"d/{number}": Entry("-", noise(100 + number, number)) for number in range(4)}
        self._add("ls -l", world, lists("d", world))
        self._add("read", {"f": Entry("-", small)}, reads("f", small))
        self._add("read large", {"f": Entry("-", large)}, reads("f", large))
        some = [(self.unit, 100), (7, 5), (2 * self.unit, 4000)]
        self._add("read here and there", {"f": Entry("-", large)}, reads("f", large, *some))


def _some_back(names: Sequence[str], entry: Entry) -> Callable[[World], Iterable[World]]:
    """Names that were removed in a row leave together: rmdir says that some could not."""

    def half(world: World) -> Iterable[World]:
        for count in range(1, len(names) + 1):
            for some in itertools.combinations(names, count):
                yield {**world, **dict.fromkeys(some, entry)}

    return half


def _with_perm(path: str, perm: int) -> Callable[[World], World]:
    return lambda world: {**world, path: Entry("-", world[path].data, perm)}


async def play(
    step: Step, files: Files, clock: Callable[[], float], *, bound: float
) -> tuple[list[World], list[OSError]]:
    """Do a step's actions; the worlds that may be true now, and what failed.

    Args:
        step: What to do.
        files: Where.
        clock: Seconds.
        bound: Seconds an action may take.
    """
    worlds, failures = [parents(step.before)], []
    for action in step.actions:
        began = clock()
        try:
            await action.run(files)
        except OSError as failure:
            failures.append(failure)
            worlds = [
                after for world in worlds if _has(action, world) for after in action.failed(world)
            ] or worlds
        else:
            # what failed before may have left too little for this to be as planned
            worlds = [action.after(world) for world in worlds if _has(action, world)]
        assert clock() - began <= bound, f"{step.name}: took {clock() - began:.0f} s"
        unique: list[World] = []
        for world in worlds:
            if world not in unique:
                unique.append(world)
        worlds = unique
    return worlds, failures


def _has(action: Action, world: World) -> bool:
    try:
        action.after(world)
    except KeyError:
        return False
    return True


async def view(files: Files, path: str = "") -> World:
    """The whole world as a mount shows it."""
    world: World = {}
    for name in await files.entries(path):
        inner = f"{path}/{name}" if path else name
        world[inner] = entry = await files.entry(inner)
        if entry.kind == "d":
            world |= await view(files, inner)
    return world
