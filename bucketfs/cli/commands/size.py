"""``bucketfs size SPEC [-o …]``: how many objects and bytes a bucket has, and where."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from bucketfs.cli import show
from bucketfs.cli.commands import offline
from bucketfs.cli.failure import ExitCode
from bucketfs.store.base import ObjectInfo, Store
from bucketfs.units import count

USAGE = """usage: bucketfs size [--json] BUCKET[:/PREFIX] [-o NAME[=VALUE],...]...

Counts the objects and bytes below a prefix without a mount, by storage class and by the next part
of the key, the largest first. It takes one LIST for a thousand objects. -o are the options of a
mount: url, passwd_file and others.

  --json   one JSON object, with all prefixes"""

#: Prefixes shown to people; --json has all.
_SHOWN = 40
#: What servers mean that name no class.
_STANDARD = "STANDARD"


@dataclass(slots=True)
class Sum:
    """Objects and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count one more object."""
        self.objects += 1
        self.bytes += size


@dataclass(slots=True)
class Sizes:
    """What is below a prefix: all, by storage class, and by the next part of the key.

    Of the last, a part that ends in a slash is a directory; objects beside these are under "".
    """

    prefix: str
    total: Sum = field(default_factory=Sum)
    classes: defaultdict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))
    parts: defaultdict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))

    def add(self, info: ObjectInfo) -> None:
        """Count an object."""
        head, slash, _ = info.key[len(self.prefix) :].partition("/")
        part = self.parts[head + slash if slash else ""]
        for each in (self.total, self.classes[info.storage_class or _STANDARD], part):
            each.add(info.size)


def run(argv: Sequence[str]) -> int:
    """Count and show. Raises Failure."""
    found = offline.parser(USAGE).parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    options = offline.options_of(found.rest, found.options, USAGE)
    sizes = offline.ask(options, lambda store: measure(store, options.prefix))
    if found.json:
        print(json.dumps({"source": options.source, **_plain(sizes)}))
    else:
        print("\n".join(map(show.name, lines(sizes, options.source))))
    return ExitCode.OK


async def measure(store: Store, prefix: str) -> Sizes:
    """Count what is below a prefix. Raises StoreError."""
    sizes = Sizes(prefix)
    await offline.scan(store, prefix, sizes.add)
    return sizes


def lines(sizes: Sizes, source: str) -> Iterator[str]:
    """What is shown to people."""
    yield f"{source}: {count(sizes.total.objects, 'object')}, {show.size(sizes.total.bytes)}"
    for title, sums in (("storage class", sizes.classes), ("prefix", sizes.parts)):
        if not sums:
            continue
        rows = [("bytes", "objects", title)]
        largest = _sorted(sums)
        for name, one in largest[:_SHOWN]:
            rows.append((show.size(one.bytes), f"{one.objects:,}", name or "(no further slash)"))
        yield ""
        yield from show.table(rows, indent="  ", right=[0, 1])
        if len(largest) > _SHOWN:
            yield f"  and {len(largest) - _SHOWN} more; --json has all"


def _sorted(sums: Mapping[str, Sum]) -> list[tuple[str, Sum]]:
    return sorted(sums.items(), key=lambda item: (-item[1].bytes, -item[1].objects, item[0]))


def _plain(sizes: Sizes) -> dict[str, object]:
    return {
        **asdict(sizes.total),
        "classes": {name: asdict(one) for name, one in _sorted(sizes.classes)},
        "prefixes": [{"name": name, **asdict(one)} for name, one in _sorted(sizes.parts)],
    }
