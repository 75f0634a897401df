"""The table of locks against a model that knows the locks of each single byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.locks.table import (
    LAST,
    Kind,
    Lease,
    Mode,
    Row,
    Rows,
    Table,
    cleared,
    dump,
    granted,
    in_the_way,
    load,
)

BYTES = 8
Model = dict[tuple[tuple[str, int, Kind], int], Mode]

spans = st.tuples(st.integers(0, BYTES - 1), st.integers(0, BYTES - 1)).map(sorted)
rows = st.builds(
    lambda mount, owner, kind, mode, span: Row(mount, owner, kind, mode, span[0], span[1]),
    st.sampled_from("ab"),
    st.integers(1, 2),
    st.sampled_from(Kind),
    st.sampled_from(Mode),
    spans,
)
#: What is asked for, and whether it is a lock or its end.
programs = st.lists(st.tuples(st.booleans(), rows), max_size=25)


def bytes_of(table: Rows) -> Model:
    """What the rows say of each byte; no byte is said twice of one holder."""
    model: Model = {}
    for row in table:
        for at in range(row.start, row.end + 1):
            assert (row.holder, at) not in model
            model[row.holder, at] = row.mode
    return model


def refused(model: Model, wanted: Row) -> bool:
    return any(
        holder != wanted.holder
        and holder[2] is wanted.kind
        and wanted.start <= at <= wanted.end
        and Mode.EXCLUSIVE in (mode, wanted.mode)
        for (holder, at), mode in model.items()
    )


@given(programs)
def test_as_a_model_of_bytes(program: list[tuple[bool, Row]]) -> None:
    table: Rows = ()
    model: Model = {}
    for locks, wanted in program:
        span = range(wanted.start, wanted.end + 1)
        if not locks:
            table = cleared(table, wanted)
            for at in span:
                model.pop((wanted.holder, at), None)
        elif in_the_way(table, wanted) is None:
            assert not refused(model, wanted)
            table = granted(table, wanted)
            model |= {(wanted.holder, at): wanted.mode for at in span}
        else:
            assert refused(model, wanted)
        assert bytes_of(table) == model
        assert_merged(table)


def assert_merged(table: Rows) -> None:
    """No two rows of a holder and a mode touch: there are as few as can be."""
    for one in table:
        for other in table:
            touch = one.holder == other.holder and one.mode is other.mode
            assert not (touch and one.end + 1 == other.start)


@given(st.lists(rows, max_size=10), st.text())
def test_what_is_written_is_read(some: list[Row], name: str) -> None:
    table: Rows = ()
    for row in some:
        if in_the_way(table, row) is None:
            table = granted(table, row)
    leases = {row.mount: Lease(3, 15.0, "höst") for row in table}
    whole = Table(table, leases, "stamp")
    assert load(dump(whole, name)) == whole


@given(st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load(data)


@pytest.mark.parametrize("locks", ['[["a","1","posix","shared",3,1,0]]', '[["a"]]', "null"])
def test_no_table(locks: str) -> None:
    data = f'{{"bucketfs-locks":1,"file":"","stamp":"","mounts":{{}},"locks":{locks}}}'
    with pytest.raises(ValueError, match=r"."):
        load(data.encode())


def test_a_whole_file_is_split_and_put_together_again() -> None:
    whole = Row("a", 1, Kind.POSIX, Mode.EXCLUSIVE)
    part = Row("a", 1, Kind.POSIX, Mode.SHARED, 10, 19)
    table = granted(granted((), whole), part)
    assert [(row.start, row.end) for row in table] == [(0, 9), (10, 19), (20, LAST)]
    assert granted(table, whole) == (whole,)


def test_flock_and_fcntl_do_not_see_each_other() -> None:
    one = Row("a", 1, Kind.POSIX, Mode.EXCLUSIVE)
    assert in_the_way((one,), Row("b", 1, Kind.FLOCK, Mode.EXCLUSIVE)) is None
    assert in_the_way((one,), Row("b", 1, Kind.POSIX, Mode.SHARED)) is one


def test_a_mount_replaces_its_own_rows_alone() -> None:
    ours, theirs = Row("a", 1, Kind.FLOCK, Mode.SHARED), Row("b", 1, Kind.FLOCK, Mode.SHARED)
    table = Table((ours, theirs), {"a": Lease(1, 15.0), "b": Lease(1, 15.0)}, "1")
    assert table.with_mount("a", (), Lease(2, 15.0), "2") == Table(
        (theirs,), {"b": Lease(1, 15.0)}, "2"
    )
    assert table.without(["b"]).rows == table.of("a") == (ours,)
