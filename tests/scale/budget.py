"""What the budget of requests allows one mount, in requests an hour.

Worked out from what `tests/budget` pins for single steps, from how long an answer counts, and from
constants that the simulation has shown. With N mounts it is N times as much: no mount knows of
another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bucketfs.cli.options.arguments import parse
from bucketfs.tree.lookup.lister import MANY_MISSES

HOUR = 3600.0

#: Of lookups that have to ask, the share that is a HEAD with a LIST of one key; after so many in
#: one directory that is listed instead, which is one LIST.
LOOKED_AT = MANY_MISSES / (MANY_MISSES + 1)

#: HEADs and LISTs of a pass through 100 files that are in the cache, when their versions have to be
#: asked for: the first ones one by one, and behind those the listing tells of all others.
PASS_HEADS, PASS_LISTS = 19, 3
#: The same when also the names have to be asked for: the directory, three files, then the listing.
NAMED_HEADS, NAMED_LISTS = 4, 5


@dataclass(frozen=True)
class Times:
    """For how many seconds an answer counts.

    Attributes:
        names: That a name is there (`stat_cache_expire`).
        versions: Which version an object has, what a directory lists, that a name is free
            (`open_ttl`).
    """

    names: float
    versions: float


def times(words: str) -> Times:
    """Those of a mount with these options."""
    options = parse(["bucket", "/mnt", *(["-o", words] if words else [])])
    return Times(options.stat_cache_expire, options.open_ttl)


def asked(period: float, trusted: float) -> float:
    """How often an hour a program has the bucket asked.

    Args:
        period: Seconds from one of its questions to the next.
        trusted: Seconds for which an answer counts.
    """
    return HOUR / (period * (trusted // period + 1))


Requests = dict[str, float]


def listing(period: float, times: Times) -> Requests:
    """`ls` of a directory of at most 1,000 names."""
    names = asked(period, times.names)
    return {"LIST": asked(period, times.versions) + names, "HEAD": names * LOOKED_AT}


def looking(period: float, times: Times) -> Requests:
    """`stat` of a file in a directory: both names are asked for."""
    names = 2 * asked(period, times.names)
    return {"LIST": names, "HEAD": names * LOOKED_AT}


def reading(period: float, times: Times) -> Requests:
    """All of 100 small files that are in the cache."""
    passes = asked(period, times.versions)
    if times.versions < period:
        return {"HEAD": passes * PASS_HEADS, "LIST": passes * PASS_LISTS}
    return {"HEAD": passes * NAMED_HEADS, "LIST": passes * NAMED_LISTS}


def results(period: float, times: Times) -> Requests:
    """A new file in a directory of the mount's own."""
    names = asked(period, times.names)
    return {
        "LIST": asked(period, times.versions) + names,
        "HEAD": names * LOOKED_AT,
        "PUT": HOUR / period,
    }


def appending(period: float, times: Times) -> Requests:
    """A line more in a file that no one else writes, closed each time."""
    # what was uploaded here is known
    heads = 0.0 if times.versions >= period else HOUR / period
    return {"HEAD": heads, "PUT": HOUR / period}


Budget = Callable[[float, Times], Requests]
