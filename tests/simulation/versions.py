"""What the open files of one mount contain, by what was written to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bucketfs.file.content import Content
from tests.simulation import chance


class Versions:
    """The bytes of each open file that was changed since it was published.

    Attributes:
        writeback: Whether a close is content with the local disk.
        changes: Counts changes of any file.
    """

    def __init__(self, published: Mapping[str, bytes], *, writeback: bool) -> None:
        self.writeback = writeback
        self.changes = 0
        self._published = published
        self._changed: dict[Content, tuple[str, bytes]] = {}
        self._closing: Counter[Content] = Counter()

    def is_modified(self, content: Content) -> bool:
        """Whether the bucket lacks some of its bytes."""
        return content.unsaved

    def before(self, content: Content) -> bytes | None:
        """What an open file contained before a change; None for the version that it stands for."""
        if content.unsaved and content in self._changed:
            return self._changed[content][1]
        # a removal that was cut off leaves a file that stands for no version, and is all here
        return self._here(content) if content.unsaved or content.base is None else None

    def _here(self, content: Content) -> bytes:
        """What an earlier mount has left to this one, or had fetched before a removal."""
        data = bytearray(self.base(content)[: content.size].ljust(content.size, b"\0"))
        for start, stop in content.overlay.ours(0, content.size):
            data[start:stop] = content.local.pages.read(start, stop)
        return bytes(data)

    def base(self, content: Content) -> bytes:
        """The version in the bucket that an open file stands for."""
        return self._published[content.base.etag] if content.base is not None else b""

    def stored(self, etag: str) -> bytes:
        """The bytes of a version in the bucket."""
        return self._published[etag]

    def of(self, content: Content) -> bytes:
        """What an open file contains."""
        before = self.before(content)
        return self.base(content) if before is None else before

    def set(self, content: Content, path: str, data: bytes) -> None:
        """An open file has been changed."""
        self.changes += 1
        self._changed[content] = path, data

    def unsaved(self) -> Iterator[tuple[str, bytes]]:
        """Paths and bytes of what has been changed and not published."""
        for content, changed in self._changed.items():
            if content.unsaved:
                yield changed

    @contextmanager
    def closing(self, content: Content) -> Iterator[None]:
        """A close is under way: whatever the file contains meanwhile may be published."""
        self.begin_closing(content)
        try:
            yield
        finally:
            self.end_closing(content)

    def begin_closing(self, content: Content) -> None:
        """As `closing`, until `end_closing`."""
        self._closing[content] += 1

    def end_closing(self, content: Content) -> None:
        """A close has ended."""
        self._closing[content] -= 1

    def is_closing(self, content: Content) -> bool:
        """Whether one is."""
        return self._closing[content] > 0

    def streams(self, content: Content) -> bool:
        """Whether parts of it may have left, so that it may have to be published as it is.

        "If other bytes that left are needed before the close, the file is first published as it is"
        ("Consistency and durability").
        """
        return content.size >= chance.SMALL["STREAM_FROM"]
