"""The column *floor*: what the requests of a workload take without a file system.

No file system can be faster than the requests it must make. Here they are made by bare sockets
(`benchmarks.bare`), from the process and through the network that the mounts are measured with.
What a row takes beyond its floor is the client's; a bar below the floor is out of reach on this
machine with these requests, whatever the client is written in.

Where it is open which requests a client makes, each way is measured and the fastest counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.bare import Bare, Request
from benchmarks.data import ARCHIVE, MIB, SMALL, noise
from benchmarks.workloads import (
    APPENDED,
    APPENDS,
    BLOCK,
    PAGE,
    RANDOM_READS,
    THREADED_READS,
    THREADS,
)

#: Length of a GET or a part of something large, as bucketfs asks for it.
_FETCH = 8 * MIB

#: The least that a store takes for a part that is not the last.
_LEAST_PART = 5 * MIB

#: What the store copies in one request: all that it may, or a piece of it, side by side.
_WHOLE, _PIECE = 5 << 30, 16 * MIB

#: HEADs of one directory that bucketfs has under way at most.
_MANY = 128

#: Makes ready what can be, and answers what is to be timed.
Prepare = Callable[[Bare], Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to do a workload's work, and the connections it may use."""

    connections: int
    prepare: Prepare


def _requests(make: Callable[[Bare], list[Request]]) -> Prepare:
    """Requests that all can be made at once."""

    def prepare(bare: Bare) -> Callable[[], object]:
        requests = make(bare)
        return lambda: bare.all(requests)

    return prepare


def _after_listing(operation: str, method: str) -> Prepare:
    """The pages of a listing, one after the other, and then a request for each key."""

    def prepare(bare: Bare) -> Callable[[], object]:
        keys = bare.bucket.keys()
        pages, requests = bare.listing(keys), bare.each(operation, method, keys, b"")

        def work() -> None:
            bare.one_by_one(pages)
            bare.all(requests)

        return work

    return prepare


def _streams(bare: Bare) -> list[Request]:
    each = [
        bare.gets(f"stream{number}", bare.scale.stream, _FETCH)
        for number in range(bare.scale.streams)
    ]
    return [request for requests in zip(*each, strict=True) for request in requests]


def _write(bare: Bare) -> Callable[[], object]:
    piece = noise(_FETCH)
    parts = [piece[: min(_FETCH, bare.scale.big - at)] for at in range(0, bare.scale.big, _FETCH)]
    return lambda: bare.multipart("big", parts)


def _untar(bare: Bare) -> list[Request]:
    """Each file, and each directory's marker before what is in it."""
    requests = bare.each("put_object", "PUT", ["package/"], b"")
    for directory in range(ARCHIVE[0]):
        above = f"package/{directory:02}/"
        requests += bare.each("put_object", "PUT", [above], b"")
        files = [f"{above}{file:03}" for file in range(ARCHIVE[1])]
        requests += bare.each("put_object", "PUT", files, noise(SMALL))
    return requests


def _puts(count: Callable[[Bare], int]) -> Prepare:
    return _requests(
        lambda bare: bare.each(
            "put_object", "PUT", [f"{number:05}" for number in range(count(bare))], noise(SMALL)
        )
    )


def _remove(bare: Bare) -> Callable[[], object]:
    keys = bare.bucket.keys()
    requests = [*bare.listing(keys), bare.delete(keys)]
    return lambda: bare.one_by_one(requests)


def _rename(bare: Bare) -> Callable[[], object]:
    copy, delete = bare.copy("big", "other"), bare.sign("delete_object", "DELETE", {"Key": "big"})
    return lambda: bare.one_by_one([copy, delete])


def _pieces(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """A range in equal pieces, each about as long as it may be."""
    count = max(1, (stop - start) // most)
    bounds = [start + (stop - start) * number // count for number in range(count + 1)]
    return list(pairwise(bounds))


def _append(piece: int) -> Prepare:
    """Each time the store copies what is there into an upload with one part more."""

    def prepare(bare: Bare) -> Callable[[], object]:
        def work() -> None:
            for number in range(APPENDS):
                size = bare.scale.appended + number * APPENDED
                bare.multipart("big", [*_pieces(0, size, piece), b"+" * APPENDED])

        return work

    return prepare


def _patch(piece: int) -> Prepare:
    """The store copies what is before and behind; the part between has to be large enough."""

    def prepare(bare: Bare) -> Callable[[], object]:
        size, at = bare.scale.big, bare.scale.big // 2
        around = bare.gets("big", size, _LEAST_PART - MIB)[:1]
        behind = _pieces(at + _LEAST_PART, size, piece)

        def work() -> None:
            bare.one_by_one(around)
            bare.multipart("big", [*_pieces(0, at, piece), noise(_LEAST_PART), *behind])

        return work

    return prepare


def _listing(bare: Bare) -> Callable[[], object]:
    pages = bare.listing(bare.bucket.keys())
    return lambda: bare.one_by_one(pages)


_ALL_OF_IT = Way(THREADS, _requests(lambda bare: bare.gets("big", bare.scale.big, _FETCH)))
_HEADS = (
    Way(THREADS, _after_listing("head_object", "HEAD")),
    Way(_MANY, _after_listing("head_object", "HEAD")),
)
_SMALL = (Way(THREADS, _after_listing("get_object", "GET")),)
_PUTS_IN_ORDER = (Way(1, _puts(lambda bare: bare.scale.creates)),)
_PUTS_AT_ONCE = (Way(THREADS, _puts(lambda bare: bare.scale.parallel_creates)),)
_LISTING, _REMOVE = (Way(1, _listing),), (Way(1, _remove),)

#: By the names of workloads. What a mount has in its cache needs no request: no floor.
FLOORS: dict[str, tuple[Way, ...]] = {
    "first-byte": (Way(1, _requests(lambda bare: bare.gets("big", bare.scale.big, BLOCK)[:1])),),
    "read": (_ALL_OF_IT,),
    "read-8": (Way(THREADS, _requests(_streams)),),
    "random": (
        Way(1, _requests(lambda bare: bare.gets("big", bare.scale.big, PAGE, RANDOM_READS))),
        _ALL_OF_IT,
    ),
    "random-16": (
        Way(
            THREADS,
            _requests(lambda bare: bare.gets("big", bare.scale.big, BLOCK, THREADED_READS)),
        ),
        _ALL_OF_IT,
    ),
    "write": (Way(THREADS, _write),),
    "create": _PUTS_IN_ORDER,
    "create-16": _PUTS_AT_ONCE,
    "untar": (Way(1, _requests(_untar)),),
    "create-later": (Way(THREADS, _puts(lambda bare: bare.scale.creates)),),
    "create-16-later": _PUTS_AT_ONCE,
    "untar-later": (Way(THREADS, _requests(_untar)),),
    "small": _SMALL,
    "small-16": _SMALL,
    "ls": _LISTING,
    "ls-l": _HEADS,
    "ls-l-again": _LISTING,
    "ls-l-list": _LISTING,
    "find": _HEADS,
    "find-list": _LISTING,
    "rm": _REMOVE,
    "rm-later": _REMOVE,
    "rename": (Way(1, _rename),),
    "append": (Way(2, _append(_WHOLE)), Way(THREADS, _append(_PIECE))),
    "patch": (Way(3, _patch(_WHOLE)), Way(THREADS, _patch(_PIECE))),
}
