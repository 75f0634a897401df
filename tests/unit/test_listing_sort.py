"""Pages of a LIST become the listing of a directory."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bucketfs.store.base import ListPage, ObjectInfo
from bucketfs.tree.core.names import FOLDER_SUFFIX, is_visible
from bucketfs.tree.lookup.lister import Listing, sort

parts = st.sampled_from(["a", "b", "c", "", ".", "..", "x" * 256, "n\0", "a" + FOLDER_SUFFIX, "é"])
keys = st.sets(st.lists(parts, min_size=1, max_size=3).map("/".join).filter(bool), max_size=25)
prefixes = st.sampled_from(["", "d/", "d/e/"])


def pages_of(prefix: str, names: set[str], cuts: list[int]) -> list[ListPage]:
    """What S3 answers: keys and common prefixes in byte order, in pages."""
    entries = sorted({n if "/" not in n else n[: n.index("/") + 1] for n in names})
    objects = {n: ObjectInfo(prefix + n, 0, "e", 1) for n in names if "/" not in n}
    edges = [0, *sorted(min(cut, len(entries)) for cut in cuts), len(entries)]
    return [
        ListPage(
            [objects[n] for n in entries[a:b] if n in objects],
            [prefix + n for n in entries[a:b] if n not in objects],
            None,
        )
        for a, b in pairwise(edges)
    ]


@given(prefixes, keys, st.lists(st.integers(0, 25), max_size=3), st.booleans())
def test_every_key_is_shown_once_or_hidden(
    prefix: str, names: set[str], cuts: list[int], marked: bool
) -> None:
    marker = ObjectInfo(prefix, 0, "m", 1)
    listing = Listing()
    for number, page in enumerate(pages_of(prefix, names, cuts)):
        first = [marker] if marked and prefix and number == 0 else []
        sort(listing, prefix, ListPage([*first, *page.objects], page.prefixes, None))

    hadoop = {n.removesuffix(FOLDER_SUFFIX) for n in names if "/" not in n and FOLDER_SUFFIX in n}
    heads = {n.split("/")[0] for n in names if "/" in n}
    directories = {n for n in heads | hadoop if is_visible(n)}
    files = {n for n in names if "/" not in n and FOLDER_SUFFIX not in n and is_visible(n)}
    assert listing.directories.keys() == directories
    assert listing.files.keys() == files - directories
    assert listing.hidden == any(not is_visible(n.split("/")[0]) for n in names)
    assert listing.marker == (marker if marked and prefix else None)
    for name, suffixes in listing.directories.items():
        assert suffixes == ({FOLDER_SUFFIX} if name in hadoop else set())


def test_a_directory_shadows_a_file_whichever_comes_first() -> None:
    file, prefix = ObjectInfo("a", 1, "e", 1), "a/"
    pages = [ListPage([file], [], "t"), ListPage([], [prefix], None)]
    for order in (pages, pages[::-1]):
        listing = Listing()
        for page in order:
            sort(listing, "", page)
        assert (listing.files, listing.directories) == ({}, {"a": set()})


def test_a_folder_mark_with_bytes_is_a_file() -> None:
    listing = Listing()
    info = ObjectInfo("a" + FOLDER_SUFFIX, 1, "e", 1)
    sort(listing, "", ListPage([info, ObjectInfo(FOLDER_SUFFIX, 0, "e", 1)], [], None))
    assert listing.files.keys() == {"a" + FOLDER_SUFFIX, FOLDER_SUFFIX}
    assert not listing.directories
