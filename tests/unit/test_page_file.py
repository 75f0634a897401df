"""A page file and its checksums, over a restart that changes bytes on the disk."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketfs.cache.extents import SPAN, Seals
from bucketfs.cache.pages import PageBody, PageFile
from tests.harness.examples import examples

NOISE = random.Random(5).randbytes(3 * SPAN)


@pytest.fixture
def pages(tmp_path: Path) -> PageFile:
    """An empty page file."""
    return PageFile(tmp_path / "a.pages", size=3 * SPAN, identity=("key", "etag"))


def filled(pages: PageFile, start: int, stop: int) -> None:
    """As a fetch does it, in small pieces."""
    for at in range(start, stop, 100_000):
        piece = NOISE[at : min(at + 100_000, stop)]
        pages.write(at, piece)
        pages.seal(at, piece)


def again(pages: PageFile) -> PageFile:
    """What the next process makes of it."""
    pages.close()
    return PageFile(
        pages.path, size=pages.size, identity=pages.identity, left=Seals.load(pages.dump())
    )


def flip(pages: PageFile, at: int) -> None:
    """One bit on the disk."""
    with open(pages.path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


def test_small_pieces_make_few_seals(pages: PageFile) -> None:
    filled(pages, 0, 3 * SPAN)
    assert [(seal.start, seal.stop) for seal in pages.seals] == [
        (0, SPAN), (SPAN, 2 * SPAN), (2 * SPAN, 3 * SPAN)]  # fmt: skip
    assert all(seal.crc == crc32c(NOISE[seal.start : seal.stop]) for seal in pages.seals)


def test_only_what_was_sealed_is_known_later(pages: PageFile) -> None:
    filled(pages, 0, SPAN)
    pages.write(SPAN, NOISE[SPAN : SPAN + 5])
    later = again(pages)
    assert list(later.valid) == [(0, SPAN)]
    assert later.prove(0, 3 * SPAN) == []
    assert later.unproven is None
    assert later.held >= SPAN


def test_a_flipped_bit_costs_its_seal_and_no_more(
    pages: PageFile, caplog: pytest.LogCaptureFixture
) -> None:
    filled(pages, 0, 3 * SPAN)
    later = again(pages)
    flip(later, SPAN + 77)
    assert later.prove(0, 4096) == []
    assert not caplog.records
    assert later.prove(SPAN + 9, SPAN + 10) == [(SPAN, 2 * SPAN)]
    assert list(later.valid) == [(0, SPAN), (2 * SPAN, 3 * SPAN)]
    assert "'key'" in caplog.text
    assert f"bytes {SPAN}-{2 * SPAN - 1}" in caplog.text
    caplog.clear()


@pytest.mark.parametrize("harm", ["cut", "gone", "zeros"])
def test_a_file_that_lost_its_bytes(
    pages: PageFile, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled(pages, 0, 2 * SPAN)
    later = again(pages)
    if harm == "cut":
        os.truncate(later.path, 100)
    elif harm == "gone":
        later.path.unlink()
    else:
        later.path.write_bytes(bytes(2 * SPAN))
    assert later.prove(0, 2 * SPAN) == [(0, 2 * SPAN)]
    assert not later.valid
    caplog.clear()


def test_writing_into_a_damaged_seal_keeps_no_damage(
    pages: PageFile, caplog: pytest.LogCaptureFixture
) -> None:
    """A seal breaks whole: what stays of its bytes must be proven while it can be."""
    filled(pages, 0, 2 * SPAN)
    later = again(pages)
    flip(later, 10)
    later.write(50, b"new")
    assert list(later.valid) == [(50, 53), (SPAN, 2 * SPAN)]
    later.truncate(SPAN + 5)
    assert list(later.valid) == [(50, 53), (SPAN, SPAN + 5)]
    assert later.unproven is None
    caplog.clear()


def test_an_upload_seals_what_it_sends(pages: PageFile) -> None:
    pages.write(0, NOISE)
    pages.zero(len(NOISE), len(NOISE) + 10)
    sent = b"".join(bytes(piece) for piece in PageBody(pages, 3, len(NOISE) + 10).chunks())
    assert sent == NOISE[3:] + bytes(10)
    assert pages.seals.missing(0, len(NOISE) + 10) == [(0, 3)]
    pages.seal(0, NOISE[:3])
    later = again(pages)
    assert list(later.valid) == [(0, len(NOISE) + 10)]
    assert later.prove(0, 4 * SPAN) == []


operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "fetch", "zero", "truncate", "drop", "send", "restart"]),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    max_size=25,
)


def change(pages: PageFile, step: str, start: int, data: bytes) -> None:
    """One thing that happens to page files."""
    stop = start + len(data)
    if step == "write":
        pages.write(start, data)
    elif step == "fetch":
        for a, b in pages.valid.missing(start, stop):
            pages.write(a, data[: b - a])
            pages.seal(a, data[: b - a])
    elif step == "send":
        for a, b in pages.valid.within(start, stop):
            pages.prove(a, b)
            assert sum(map(len, PageBody(pages, a, b).chunks())) == b - a
    elif step == "truncate":
        pages.truncate(start)
    else:
        getattr(pages, step)(start, stop)


@settings(max_examples=examples(150))
@given(operations, st.booleans())
def test_seals_tell_the_truth(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]], odd: bool
) -> None:
    """Whatever happens to a file: its seals agree with its bytes, and lie within what is valid."""
    unit = SPAN // 2 + (17 if odd else 0)
    path = tmp_path_factory.mktemp("pages") / "a.pages"
    pages = PageFile(path, size=5 * unit, identity=None)
    for number, (step, one, other) in enumerate(steps):
        start, stop = sorted((one * unit, other * unit))
        if step == "restart":
            pages = again(pages)
        else:
            change(pages, step, start, bytes([number + 1]) * (stop - start))
        known = list(Seals.load(pages.dump()))
        assert all(pages.valid.covers(seal.start, seal.stop) for seal in known)
        for seal in known:
            assert crc32c(pages.read(seal.start, seal.stop)) == seal.crc
    pages.unlink()
