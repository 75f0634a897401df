"""Old versions as files: their names, and what a page of versions tells for certain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bucketfs.store.base import ObjectInfo, ObjectVersion, VersionPage
from bucketfs.store.layers.history import certain, is_version, named


def version(key: str, time: int, number: int, *, deleted: bool = False) -> ObjectVersion:
    return ObjectVersion(ObjectInfo(key, 1, "e", time), f"v{number}", deleted, number == 0)


@given(times=st.lists(st.integers(0, 3), max_size=120), deleted=st.sets(st.integers(0, 119)))
def test_names_sort_as_the_versions(times: list[int], deleted: set[int]) -> None:
    history = [
        version("k", time, number, deleted=number in deleted)
        for number, time in enumerate(sorted(times, reverse=True))
    ]
    names = named(history)
    assert [names[name] for name in sorted(names)] == [v for v in history[::-1] if not v.deleted]
    assert all(map(is_version, names))


def test_names() -> None:
    history = [version("k", 86_401, 0), version("k", 0, 1), version("k", 0, 2)]
    assert list(named(history)) == [
        "1970-01-01T00:00:00Z.v2",
        "1970-01-01T00:00:00Z~001.v1",
        "1970-01-02T00:00:01Z.v0",
    ]


def test_an_id_that_cannot_be_a_name() -> None:
    odd = ObjectVersion(ObjectInfo("k", 1, "e", 0), "a/b c", deleted=False, latest=True)
    assert list(named([odd])) == ["1970-01-01T00:00:00Z.a%2Fb%20c"]


def test_names_that_are_no_versions() -> None:
    assert not any(map(is_version, ("f", "2026-01-31", "2026-01-31T12:00:00Z", "x.2026")))


KEYS = ("f", "f-1", "f.txt", "f/a", "f/b", "f0", "g", "g/a")


@given(
    there=st.dictionaries(st.sampled_from(KEYS), st.integers(1, 3)),
    cut=st.integers(0, 20),
    size=st.integers(1, 20),
)
def test_a_page_tells_no_half_truths(there: dict[str, int], cut: int, size: int) -> None:
    """Whatever part of a listing with delimiter "/" a page is."""
    entries: list[ObjectVersion | str] = []
    for key, count in sorted(there.items()):
        common = f"{key.partition('/')[0]}/"
        if "/" not in key:
            entries += [version(key, 0, number) for number in range(count)]
        elif common not in entries:
            entries.append(common)
    part = entries[cut : cut + size]
    before = entries[cut - 1] if 0 < cut <= len(entries) else ""
    begun = before if isinstance(before, str) else before.info.key
    page = VersionPage(
        [entry for entry in part if not isinstance(entry, str)],
        [entry for entry in part if isinstance(entry, str)],
        ("more", "") if cut + size < len(entries) else None,
    )
    for key, name in certain(page, begun).items():
        of_key = [e for e in entries if not isinstance(e, str) and e.info.key == key]
        assert list(name.versions) == of_key
        assert name.below == (f"{key}/" in entries)
