"""What the journal says of a content that the bucket lacks, for as long as it lacks it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bucketfs.cache.pages import PageFile
from bucketfs.cache.rows import PendingRow

#: A promised file up to this size is copied before its bytes change, so that after a crash it is
#: either what was promised or what was promised next. Larger ones change in place, as on a disk.
COPIED = 16 << 20


@dataclass(slots=True, eq=False)
class Promise:
    """A content's row in the journal.

    Attributes:
        pages: The page file that the row counts on; the content's own, until that changes.
        row: As it was written last.
        inline: The row has the bytes itself.
        revision: Of the content when the row was written.
        on_disk: A power cut leaves the bytes, once the row itself is safe.
        answered: A close counts on it, or on an earlier state whose place it took: nothing takes
            its place that is not on the disk.
    """

    pages: PageFile
    row: PendingRow
    inline: bool
    revision: int
    on_disk: bool
    answered: bool

    def counts_on(self, pages: PageFile, start: int, *, cut: bool) -> bool:
        """Whether a change of `pages` from `start` on would break the promise.

        Args:
            pages: The content's page file.
            start: First byte that changes.
            cut: What is behind it goes; otherwise it is written over.
        """
        if self.inline or self.pages is not pages or start >= self.row.size:
            return False
        return cut or self.row.size <= COPIED

    def is_sealed(self, pages: PageFile, start: int, *, cut: bool) -> bool:
        """Whether such a change breaks no promise and would yet look like damage after a crash."""
        if self.inline or self.pages is not pages or start >= self.row.size:
            return False
        return bool(self.row.seals) and not self.counts_on(pages, start, cut=cut)

    def unseal(self) -> PendingRow:
        """The row from now on, with bytes that may change."""
        self.row = replace(self.row, seals=b"")
        return self.row
