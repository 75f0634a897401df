"""``bucketfs check SPEC [-o …]``: what of a bucket a mount cannot show, and what is left in it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from bucketfs.cli import show
from bucketfs.cli.commands import offline
from bucketfs.cli.failure import ExitCode
from bucketfs.store.base import PROBE, ObjectInfo, Store, UploadInfo
from bucketfs.tree.core.names import NAME_MAX, is_visible
from bucketfs.units import count

USAGE = """usage: bucketfs check [--json] BUCKET[:/PREFIX] [-o NAME[=VALUE],...]...

Looks through the keys below a prefix without a mount and names those that a mount cannot show as
files, files that are hidden by a directory of the same name, unfinished uploads by their age (they
are paid for; bucketfs gc aborts them), and objects that bucketfs has tried out the endpoint on and
could not delete. It changes nothing, and takes one LIST for a thousand objects.

  --json   one JSON object, with all of them

Exit code 0: nothing is odd; 1: something is."""

#: Named of each kind to people; --json has all.
_SHOWN = 20
_AGES: Final = (
    (3600, "less than an hour"),
    (86400, "less than a day"),
    (7 * 86400, "less than a week"),
)


@dataclass(frozen=True, slots=True)
class Odd:
    """A key and what is odd about it."""

    key: str
    why: str


@dataclass(slots=True)
class Found:
    """What a bucket has below a prefix that people may want to know of.

    Attributes:
        objects: How many there are.
        hidden: Keys that are no paths of files.
        shadowed: Files with the name of a directory.
        probes: Objects of bucketfs that it could not delete.
        uploads: Unfinished ones, the oldest first.
        sorted: Whether the keys came in the order in which shadowed ones are found.
    """

    objects: int = 0
    hidden: list[Odd] = field(default_factory=list)
    shadowed: list[Odd] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)
    uploads: list[UploadInfo] = field(default_factory=list)
    sorted: bool = True

    @property
    def is_odd(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.hidden or self.shadowed or self.probes or self.uploads)


def run(argv: Sequence[str]) -> int:
    """Look and tell. Raises Failure."""
    words = offline.parser(USAGE).parse(argv)
    if words.help:
        print(USAGE)
        return ExitCode.OK
    options = offline.options_of(words.rest, words.options, USAGE)
    found = offline.ask(options, lambda store: look(store, options.prefix))
    if words.json:
        print(json.dumps({"source": options.source, **asdict(found)}))
    else:
        print("\n".join(map(show.name, lines(found, options.source, time.time()))))
    return ExitCode.FAILED if found.is_odd else ExitCode.OK


async def look(store: Store, prefix: str) -> Found:
    """Look at all below a prefix. Raises StoreError."""
    found = Found()
    await offline.scan(store, prefix, Keys(prefix, found).add)
    if store.capabilities.multipart:
        uploads = await store.list_uploads(prefix)
        found.uploads = sorted(uploads, key=lambda upload: upload.initiated)
    return found


class Keys:
    """Sorts keys out as they are listed.

    In byte order all that begins with a key follows it, so that of the keys before only those count
    with which the present one begins.
    """

    def __init__(self, prefix: str, found: Found) -> None:
        self._prefix = prefix
        self._found = found
        self._last = ""
        self._above: list[ObjectInfo] = []

    def add(self, info: ObjectInfo) -> None:
        """Look at the next key."""
        found, key = self._found, info.key
        found.objects += 1
        path = key[len(self._prefix) :]
        if path.rpartition("/")[2].startswith(PROBE):
            found.probes.append(key)
        elif why := hidden_because(path):
            found.hidden.append(Odd(key, why))
        found.sorted = found.sorted and key.encode() >= self._last.encode()
        self._last = key
        while self._above and not key.startswith(self._above[-1].key):
            self._above.pop()
        for file in self._above:
            if key.startswith(f"{file.key}/"):
                self._above.remove(file)
                empty = " (it is empty: some programs mark directories so)" * (not file.size)
                found.shadowed.append(Odd(file.key, f"{file.key}/ is a directory{empty}"))
                break
        if path and not key.endswith("/"):
            self._above.append(info)


def hidden_because(path: str) -> str:
    """Why a path below the mounted prefix is no file or directory; "" if it is one."""
    parts = path.removesuffix("/").split("/") if path else []
    for part in parts:
        if is_visible(part):
            continue
        if not part:
            return "two slashes in a row, or one at the beginning"
        if part in (".", ".."):
            return f"a part of it is {part!r}"
        if "\0" in part:
            return "it has a NUL"
        return f"a part of it has {len(part.encode())} bytes, {NAME_MAX} are the most"
    return ""


def lines(found: Found, source: str, now: float) -> Iterator[str]:
    """What is shown to people; `now` in Unix seconds."""
    ok = "" if found.is_odd else "; nothing is odd"
    yield f"{source}: {count(found.objects, 'object')}{ok}"
    for title, odd in (
        ("cannot be shown as files", found.hidden),
        ("hidden by a directory of their name", found.shadowed),
    ):
        if odd:
            yield ""
            yield f"  {title}: {len(odd)}"
            yield from _named([f"{one.key}: {one.why}" for one in odd])
    if not found.sorted:
        yield "  the endpoint lists in an order of its own: names hidden by others were not found"
    if found.probes:
        yield ""
        yield f"  objects of bucketfs that are in nobody's use: {len(found.probes)}"
        yield from _named(found.probes)
    if found.uploads:
        yield ""
        yield f"  unfinished uploads: {len(found.uploads)}"
        yield from show.table(list(_ages(found.uploads, now)), indent="    ", right=[0])
        yield from _named(
            [f"{one.key}: {show.span(now - one.initiated)} old" for one in found.uploads]
        )
    if found.probes or found.uploads:
        yield ""
        yield f"  bucketfs gc {source} removes what is older than a day"


def _named(names: Sequence[str]) -> Iterator[str]:
    for name in names[:_SHOWN]:
        yield f"    {name}"
    if len(names) > _SHOWN:
        yield f"    and {len(names) - _SHOWN} more"


def _ages(uploads: Sequence[UploadInfo], now: float) -> Iterator[tuple[str, str]]:
    left = list(uploads)
    for seconds, words in _AGES:
        young = [one for one in left if now - one.initiated < seconds]
        left = [one for one in left if now - one.initiated >= seconds]
        if young:
            yield str(len(young)), words
    if left:
        yield str(len(left)), "a week and more"
