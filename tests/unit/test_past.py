"""What stood under each key at a moment, told from pages of versions."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bucketfs.store.base import ObjectInfo, ObjectVersion
from bucketfs.store.layers.past import as_of

#: Of each key the times of its versions, the newest first, and whether each is a deletion.
histories = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=5).map(
        lambda history: sorted(history, key=lambda version: -version[0])
    ),
    max_size=5,
)


def versions_of(histories: dict[str, list[tuple[int, bool]]]) -> list[ObjectVersion]:
    return [
        ObjectVersion(ObjectInfo(key, 1, "e", time), f"{key}{number}", deleted, number == 0)
        for key, history in sorted(histories.items())
        for number, (time, deleted) in enumerate(history)
    ]


@given(histories=histories, at=st.integers(-1, 10), cuts=st.sets(st.integers(0, 25)))
def test_wherever_the_pages_are_cut(
    histories: dict[str, list[tuple[int, bool]]], at: int, cuts: set[int]
) -> None:
    expected = {}
    for key, history in histories.items():
        then = [number for number, (time, _) in enumerate(history) if time <= at]
        if then and not history[then[0]][1]:
            expected[key] = f"{key}{then[0]}"
    versions = versions_of(histories)
    edges = [0, *sorted(cut for cut in cuts if cut < len(versions)), len(versions)]
    found, decided = [], ""
    for start, stop in pairwise(edges):
        more, decided = as_of(versions[start:stop], at, decided)
        found += more
    assert {version.info.key: version.version_id for version in found} == expected
