"""How long what is known may be trusted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bucketfs.tree.core.freshness import FOLLOWED, is_trusted
from bucketfs.tree.core.inode import NEVER

TIMES = st.floats(0, 1e6)
SEEN = TIMES | st.just(NEVER)
SINCE = TIMES | st.none()


@given(SEEN, TIMES, TIMES)
def test_without_a_feed_it_is_a_matter_of_age(seen: float, now: float, limit: float) -> None:
    assert is_trusted(seen, now, limit, None) == (now - seen <= limit)


@given(SEEN, TIMES, TIMES, SINCE)
def test_a_feed_only_adds_trust_in_what_was_seen_since(
    seen: float, now: float, limit: float, since: float | None
) -> None:
    alone, followed = is_trusted(seen, now, limit, None), is_trusted(seen, now, limit, since)
    assert followed >= alone
    if followed > alone:
        assert since is not None
        assert seen > since
        assert now - seen <= FOLLOWED


@given(SEEN, SEEN, TIMES, TIMES, SINCE)
def test_what_was_seen_later_is_trusted_no_less(
    one: float, other: float, now: float, limit: float, since: float | None
) -> None:
    earlier, later = sorted((one, other))
    if is_trusted(earlier, now, limit, since):
        assert is_trusted(later, now, limit, since)


@given(TIMES, TIMES, SINCE)
def test_what_was_never_seen_is_never_trusted(
    now: float, limit: float, since: float | None
) -> None:
    assert not is_trusted(NEVER, now, limit, since)
