"""The answer to the kernel's first request."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.fuse import agreement

#: What Linux 6.18 asked, and what libfuse 3.14 answered.
REQUEST = struct.pack(
    "=IIQQIIIIIIIII", 104, 26, 2, 0, 0, 0, 0, 0, 7, 45, 1 << 17, 0x73FFFFFB, 0x5FD
)
REQUEST += bytes(104 - len(REQUEST))
TAKEN = 0x4040B029
ANSWER = struct.pack(
    "=IiQIIIIHHIIHH", 80, 0, 2, 7, 31, 1 << 17, TAKEN, 0, 0, 1 << 20, 1, 256, 0
) + bytes(32)

flags = st.integers(0, 2**32 - 1)


def request(offered: int) -> bytes:
    changed = bytearray(REQUEST)
    struct.pack_into("=I", changed, 52, offered)
    return bytes(changed)


def answer(taken: int, *, error: int = 0, major: int = 7, minor: int = 31) -> bytes:
    changed = bytearray(ANSWER)
    struct.pack_into("=i", changed, 4, error)
    struct.pack_into("=II", changed, 16, major, minor)
    struct.pack_into("=I", changed, 28, taken)
    return bytes(changed)


def taken(amended: bytes) -> int:
    return int(struct.unpack_from("=I", amended, 28)[0])


def test_the_samples_are_whole() -> None:
    assert (len(REQUEST), len(ANSWER)) == (104, 80)
    assert agreement.is_init(REQUEST)


def test_what_is_added() -> None:
    changed = agreement.amended(REQUEST, ANSWER)
    assert taken(changed) == TAKEN | agreement.PARALLEL_DIROPS | agreement.HANDLE_KILLPRIV_V2
    assert struct.unpack_from("=HH", changed, 32) == (64, 48)


@given(flags, flags)
def test_nothing_is_taken_that_is_not_offered_and_nothing_given_back(
    offered: int, before: int
) -> None:
    after = taken(agreement.amended(request(offered), answer(before)))
    assert after & before == before
    assert (after & ~before) & ~(offered & agreement.WANTED) == 0
    assert offered & agreement.WANTED & ~after == 0


@given(flags)
def test_the_rest_of_the_answer_stays(offered: int) -> None:
    changed = agreement.amended(request(offered), ANSWER)
    assert (changed[:28], changed[36:]) == (ANSWER[:28], ANSWER[36:])


@pytest.mark.parametrize(
    "as_it_is",
    [
        answer(0, error=-errno.EPROTO),
        answer(0, major=8),
        answer(0, minor=12),
        ANSWER[:16],
        ANSWER[:35],
    ],
    ids=["an error", "another protocol", "no limits", "nothing", "short"],
)
def test_an_answer_without_room_stays(as_it_is: bytes) -> None:
    assert agreement.amended(REQUEST, as_it_is) == as_it_is


def test_an_answer_may_be_longer() -> None:
    assert agreement.amended(REQUEST, ANSWER + b"new") == (
        agreement.amended(REQUEST, ANSWER) + b"new"
    )


def test_other_requests() -> None:
    lookup = struct.pack("=IIQQIIIII", 42, 1, 8, 1, 0, 0, 7, 0, 0)[:40] + b"a\0"
    assert not agreement.is_init(lookup)
    assert agreement.refusal(lookup) == struct.pack("=IiQ", 16, -errno.EIO, 8)


@given(st.binary(max_size=120))
def test_any_bytes(data: bytes) -> None:
    agreement.refusal(data)
    assert agreement.amended(REQUEST, data)[:16] == data[:16]
    assert not agreement.is_init(data) or len(data) >= 56


def flags_of(request: bytes) -> tuple[int, int]:
    found = struct.unpack_from("=I", request, 52)[0], struct.unpack_from("=I", request, 56)[0]
    return int(found[0]), int(found[1])


@given(flags, flags)
def test_a_repeated_request_offers_what_was_taken(offered: int, taken: int) -> None:
    asked = request(offered)
    again = agreement.repeated(asked, answer(taken))
    assert flags_of(again)[0] == offered & taken
    assert flags_of(again)[1] in (0, 0x5FD)  # of a kernel without them nobody reads these
    assert (again[:52], again[60:]) == (asked[:52], asked[60:])
    # whoever takes no more than that is answered for as before
    assert agreement.is_init(again)


def test_a_repeated_request_is_amended_to_the_same_answer() -> None:
    told = agreement.amended(REQUEST, ANSWER)
    again = agreement.repeated(REQUEST, told)
    assert agreement.amended(again, ANSWER) == told


def test_who_can_ask_again() -> None:
    assert agreement.offers_resend(REQUEST)
    assert not agreement.offers_resend(request(0x33FFFFFB))  # without INIT_EXT
    older = bytearray(REQUEST)
    struct.pack_into("=I", older, 56, 0x57D)
    assert not agreement.offers_resend(bytes(older))
    assert struct.unpack("=IiQ", agreement.resend()) == (16, 7, 0)


def test_with_locks_the_kernel_asks_for_them_and_for_less() -> None:
    amended = agreement.amended(REQUEST, ANSWER)
    changed = agreement.with_locks(REQUEST, amended)
    assert taken(changed) == taken(amended) | agreement.LOCKS
    assert struct.unpack_from("=I", changed, 16 + 20) == (agreement.RELAYED,)
    assert struct.unpack_from("=H", changed, 16 + 28) == (32,)
    same = bytearray(changed)
    for at, length in ((28, 4), (36, 4), (44, 2)):
        same[at : at + length] = amended[at : at + length]
    assert bytes(same) == amended


@pytest.mark.parametrize(
    ("asked", "answered"), [(request(0), ANSWER), (REQUEST, answer(0, error=-5)[:16])]
)
def test_a_kernel_that_keeps_its_locks(asked: bytes, answered: bytes) -> None:
    with pytest.raises(ValueError, match="does not ask for locks"):
        agreement.with_locks(asked, answered)
