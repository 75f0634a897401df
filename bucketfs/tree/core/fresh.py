"""How long what is known may be trusted. Pure.

Without a feed of changes it is a matter of age. With one, what was asked for since the feed began
is as good as new: what changed after that was told. It still has a limit, for a server that leaves
out what it should have told, as both MinIO and RustFS do when they have too much to tell.
"""

from __future__ import annotations

from typing import Final

#: Seconds for which what a feed has not contradicted is trusted.
FOLLOWED: Final = 3600.0


def is_followed(seen: float, now: float, since: float | None) -> bool:
    """Whether a feed would have told if what was seen had changed.

    Args:
        seen: Time of the question that was answered so.
        now: Time.
        since: From when on the feed tells; None: there is none now.
    """
    return since is not None and seen > since and now - seen <= FOLLOWED


def is_trusted(seen: float, now: float, limit: float, since: float | None) -> bool:
    """Whether no question is needed; `limit`: seconds that hold without a feed, others as above."""
    return now - seen <= limit or is_followed(seen, now, since)
