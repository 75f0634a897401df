"""What the oracle lets pass, and why: the list to read beside docs/semantics.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tests.simulation.chance import SMALL
from tests.simulation.disk import BLOCK

if TYPE_CHECKING:
    from tests.simulation.oracle import Call, Fact

#: Virtual seconds after which an open must show what another mount has stored: `open_ttl` is 1, a
#: request under way takes its time, too.
READ_AGE = 3.0
#: Names that `rm -r` removes leave the bucket when the deletion arrives, which is repeated for so
#: long; what another client stores under them by then goes, too ("Directories and rename").
DELETED_LATER = 600.0


def lost_by_power_cut(fact: Fact, journal_synced: float) -> bool:
    """Names that were removed or renamed just before may be back, as on any disk without fsync.

    "A power cut brings back at most the names removed during the last two round trips"
    ("Directories and rename").
    """
    return fact.by.startswith(("unlink", "rename", "rmdir")) and fact.since >= journal_synced


def leaves_uploads(happened: Iterable[str]) -> bool:
    """Whether unfinished uploads may stay behind.

    The row of an upload that was begun is written, not synced, before its request is sent: a power
    cut within the next moments takes it away. So does a beginning that was carried out, answered
    with a 5xx and not repeated (`Link` does not do that). The log tells when what an unanswered
    beginning may have made could not be aborted. No data is lost; `bucketfs gc` finds the upload.
    """
    return bool({"power cut", "an abort failed"} & set(happened))


def stale_copy(power_cut: float | None) -> bool:
    """Whether a mount may make a conflict copy where only it itself has stored anything.

    The row of a file that has arrived is dropped, and the drop synced within some seconds. After a
    power cut before that the file is uploaded once more. If a newer state of it has arrived as
    well, the older one, which no attribute tells from others', ends up beside it.
    """
    return power_cut is not None


def has_gaps(content: bytes, known: Iterable[bytes]) -> bool:
    """Whether a conflict copy is a content that was closed, with zeros where bytes are gone.

    "Where the version that was changed here had not been read completely, the rest of it is gone
    with it, and the file is kept beside theirs, with zeros for what is missing".
    """
    return any(
        len(each) == len(content) and all(a in {0, b} for a, b in zip(content, each, strict=True))
        for each in known
        if content not in known
    )


def renaming_replaces(calls: Sequence[Call], stored: float) -> bool:
    """Whether a copy may replace what another mount has stored under the new name."""
    return any(call.asked >= stored for call in calls if call.what.startswith("rename"))


def removing_replaced(calls: Sequence[Call], stored: float) -> bool:
    """Whether a deletion may hit what another mount has stored: a removal takes what is there."""
    return any(call.asked >= stored or not call.what.startswith("rename") for call in calls)


def is_mixed(content: bytes, known: Sequence[bytes]) -> bool:
    """Whether a large file that was written over in place has some of the new bytes after a crash.

    "Only a file of more than 16 MiB that was written over in place has, as on any disk, the new
    bytes among the old ones" ("Write-back"). After a power cut, those of some pages.
    """
    pieces = [(start, content[start : start + BLOCK]) for start in range(0, len(content), BLOCK)]
    return len(content) > SMALL["COPIED"] and all(
        any(each.startswith(piece, start) for each in known) for start, piece in pieces
    )
