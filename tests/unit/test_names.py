"""Names, keys, and which keys are hidden."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.errors import FsError
from bucketfs.tree.core.names import NAME_MAX, decode_name, is_visible
from bucketfs.tree.core.state import KEY_MAX, check_key

names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


@given(names)
def test_a_name_comes_through_unless_it_is_too_long(name: str) -> None:
    raw = name.encode()
    if len(raw) > NAME_MAX:
        with pytest.raises(FsError) as caught:
            decode_name(raw)
        assert caught.value.errno == errno.ENAMETOOLONG
        assert not is_visible(name)
    else:
        assert decode_name(raw) == name
        assert is_visible(name) == (name not in (".", ".."))


@given(st.binary(max_size=300))
def test_bytes_are_decoded_or_refused(raw: bytes) -> None:
    try:
        assert decode_name(raw).encode() == raw
    except FsError as error:
        assert error.errno in (errno.EILSEQ, errno.ENAMETOOLONG)  # noqa: PT017 - both may be


@pytest.mark.parametrize("name", ["", ".", "..", "a\0", "x" * 256, "é" * 128, "😀" * 64])
def test_hidden(name: str) -> None:
    assert not is_visible(name)


@pytest.mark.parametrize(
    "name", ["...", " ", "\n", "x" * 255, "é" * 127, "😀" * 63, "_$folder$", "%2F", "a\\b", "-"]
)
def test_visible(name: str) -> None:
    assert is_visible(name)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=1100))
def test_keys_are_limited_in_bytes(key: str) -> None:
    if len(key.encode()) <= KEY_MAX:
        assert check_key(key) is key
    else:
        with pytest.raises(FsError) as caught:
            check_key(key)
        assert caught.value.errno == errno.ENAMETOOLONG
