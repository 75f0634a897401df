"""Options that can change under a mount: which they are, and what a request to change some says."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from bucketfs.options import BY_NAME, TABLE

#: Their names, in the table's order.
LIVE = tuple(row.name for row in TABLE if row.live)


def parse(words: Mapping[str, str]) -> dict[str, Any]:
    """Values by field of `Options`, of texts by name of an option.

    Raises:
        ValueError: One is no option, has a wrong value, or cannot change; the reason in one line.
    """
    values = {}
    for name, text in words.items():
        row = BY_NAME.get(name)
        if row is None:
            close = difflib.get_close_matches(name, LIVE, n=1)
            raise ValueError(f"{name}: no such option{f'; {close[0]}?' if close else ''}")
        if not row.live:
            raise ValueError(
                f"{name} cannot change under a mount: unmount, and mount again with"
                f" -o {name}; what can change: {', '.join(LIVE)}"
            )
        try:
            values[row.attribute] = row.value_of(text)
        except ValueError as error:
            raise ValueError(f"{name}={text}: {error}") from None
    return values
