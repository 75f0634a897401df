"""What a history of appends to lists shows: lost updates, torn elements, cycles. Pure.

In the manner of elle (Kingsbury and Alvaro, 2020): each element is appended once in a history, so
that a list says in which order its versions came, and who made each. From that follow the edges
between transactions: ww (one version follows another), wr (who read what another wrote), rw (who
read what another replaced), and rt (one had ended before the other began). Lists under locks are
strictly serializable: there is no cycle.

A transaction whose outcome is not known may have happened, in part or not at all. It is in the
graph by what of it was seen, and what it has read proves nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

List = tuple[str, ...]


class Outcome(StrEnum):
    """How a transaction ended."""

    OK = "ok"
    FAILED = "failed"  # it has appended nothing
    MAYBE = "maybe"


@dataclass(frozen=True)
class Transaction:
    """What one program did under its locks.

    Attributes:
        reads: Lists as it found them, before it appended.
        appends: Elements, by list; at most one each.
        began, ended: Of one clock; ended None when nobody knows.
    """

    name: str
    outcome: Outcome
    reads: Mapping[str, List] = field(default_factory=dict)
    appends: Mapping[str, str] = field(default_factory=dict)
    began: float = 0.0
    ended: float | None = None


@dataclass(frozen=True, order=True)
class Anomaly:
    """Something that must not be."""

    kind: str
    what: str


Edges = dict[str, dict[str, set[str]]]


def check(history: Collection[Transaction], final: Mapping[str, List]) -> list[Anomaly]:
    """All anomalies of a history, whose lists were at last as `final` says."""
    found = list(_of_elements(history, final))
    order = {key: _longest(key, history, final) for key in _keys(history, final)}
    found += _of_orders(history, order, final)
    found += _of_updates(history, order)
    if not found:  # without one order of each list's versions there are no edges
        found += _cycles(_edges(history, order))
    return sorted(set(found))


def _keys(history: Iterable[Transaction], final: Mapping[str, List]) -> set[str]:
    return {key for one in history for key in (*one.reads, *one.appends)} | set(final)


def _seen(
    key: str, history: Iterable[Transaction], final: Mapping[str, List]
) -> list[tuple[str, List]]:
    """All states of a list that somebody saw, and who."""
    reads = [
        (one.name, one.reads[key])
        for one in history
        if key in one.reads and one.outcome is Outcome.OK
    ]
    return [*reads, ("the end", final.get(key, ()))]


def _longest(key: str, history: Iterable[Transaction], final: Mapping[str, List]) -> List:
    return max((state for _, state in _seen(key, history, final)), key=len)


def _of_elements(history: Collection[Transaction], final: Mapping[str, List]) -> Iterable[Anomaly]:
    appended = {(key, element): one for one in history for key, element in one.appends.items()}
    for key in _keys(history, final):
        for who, state in _seen(key, history, final):
            for element, times in Counter(state).items():
                if times > 1:
                    yield Anomaly("duplicate", f"{element!r} {times} times in {key}, seen by {who}")
                writer = appended.get((key, element))
                if writer is None:
                    yield Anomaly("torn", f"nobody appended {element!r} to {key}, seen by {who}")
                elif writer.outcome is Outcome.FAILED:
                    yield Anomaly("aborted read", f"{element!r} of {key} failed, seen by {who}")


def _of_orders(
    history: Collection[Transaction], order: Mapping[str, List], final: Mapping[str, List]
) -> Iterable[Anomaly]:
    for key, longest in order.items():
        if gone := set(longest) - set(final.get(key, ())):
            yield Anomaly("lost version", f"{sorted(gone)} of {key} were seen, and are gone")
        for who, state in _seen(key, history, final):
            if state == longest[: len(state)]:
                continue
            kind = "reordered" if set(state) <= set(longest) else "lost version"
            yield Anomaly(kind, f"{key} as {who} saw it is not how {longest[-1]!r} came about")


def _of_updates(history: Collection[Transaction], order: Mapping[str, List]) -> Iterable[Anomaly]:
    for one in history:
        for key, element in one.appends.items():
            if one.outcome is not Outcome.OK:
                continue
            if element not in order[key]:
                yield Anomaly("lost update", f"{element!r} of {one.name} is not in {key}")
            elif key in one.reads and order[key].index(element) != len(one.reads[key]):
                text = f"{one.name} appended {element!r} to another state of {key} than it read"
                yield Anomaly("lost update", text)


# ---- cycles --------------------------------------------------------------------------------------


def _edges(history: Collection[Transaction], order: Mapping[str, List]) -> Edges:
    """From each transaction to those that must come after it, and why."""
    edges: Edges = defaultdict(lambda: defaultdict(set))
    writers = {(key, element): one.name for one in history for key, element in one.appends.items()}

    def add(before: str | None, after: str | None, why: str) -> None:
        if before is not None and after is not None and before != after:
            edges[before][after].add(why)

    for key, longest in order.items():
        made = [writers.get((key, element)) for element in longest]
        for before, after in pairwise(made):
            add(before, after, "ww")
        for one in history:
            if one.outcome is Outcome.OK and key in one.reads:
                version = len(one.reads[key])
                add(made[version - 1] if version else None, one.name, "wr")
                add(one.name, made[version] if version < len(made) else None, "rw")
    for before, after in _in_real_time(history):
        add(before, after, "rt")
    return edges


def _in_real_time(history: Collection[Transaction]) -> Iterable[tuple[str, str]]:
    """Who had ended before another began; what follows from others of these is left out."""
    known = [one for one in history if one.ended is not None and one.outcome is Outcome.OK]
    moments: list[tuple[float, int, Transaction]] = []
    for one in known:
        assert one.ended is not None
        moments += [(one.began, 1, one), (one.ended, 0, one)]
    latest: set[str] = set()
    before: dict[str, set[str]] = {}
    for _, begins, one in sorted(moments, key=lambda moment: moment[:2]):
        if begins:
            before[one.name] = set(latest)
            yield from ((other, one.name) for other in latest)
        else:
            latest = (latest - before[one.name]) | {one.name}


#: The edges that make a cycle of each kind; the first that fits names it.
_KINDS: Sequence[tuple[str, frozenset[str]]] = (
    ("G0", frozenset({"ww"})),
    ("G1c", frozenset({"ww", "wr"})),
    ("G2", frozenset({"ww", "wr", "rw"})),
    ("real time", frozenset({"ww", "wr", "rw", "rt"})),
)


def _cycles(edges: Edges) -> Iterable[Anomaly]:
    told: set[str] = set()
    for kind, allowed in _KINDS:
        graph = {
            before: [after for after, why in afters.items() if why & allowed]
            for before, afters in edges.items()
        }
        for group in components(graph):
            if len(group) > 1 and not told & set(group):
                told |= set(group)
                yield Anomaly(kind, f"a cycle of {', '.join(sorted(group)[:8])}")


def components(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The strongly connected components (Tarjan, without recursion)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    found: list[list[str]] = []
    for root in graph:
        if root in number:
            continue
        work = [(root, iter(graph[root]))]
        number[root] = low[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            after = next(rest, None)
            if after is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == number[node]:
                    at = stack.index(node)
                    found.append(stack[at:])
                    on_stack -= set(stack[at:])
                    del stack[at:]
            elif after not in number:
                number[after] = low[after] = len(number)
                stack.append(after)
                on_stack.add(after)
                work.append((after, iter(graph.get(after, ()))))
            elif after in on_stack:
                low[node] = min(low[node], number[after])
    return found
