"""Figures, names and progress as people read them. Pure, but for `Progress` and `waiting`."""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from bucketfs.units import count

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
#: C0, DEL, C1, and surrogates (bytes that are no UTF-8): nothing a terminal should be sent.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def size(count: float) -> str:
    """Bytes with three digits or so: ``17 B``, ``1.5 KiB``, ``230 MiB``."""
    at = 0
    while count >= 1023.5 and at < len(_UNITS) - 1:
        count /= 1024
        at += 1
    digits = 1 if at and count < 99.95 else 0
    return f"{count:.{digits}f} {_UNITS[at]}"


def span(seconds: float) -> str:
    """A duration in its two largest units: ``3 d 4 h``, ``12 min 5 s``, ``0 s``."""
    left = max(0, int(seconds))
    words = []
    for length, unit in _SPANS:
        if left >= length:
            words.append(f"{left // length} {unit}")
            left %= length
    return " ".join(words[:2]) or "0 s"


def name(text: str) -> str:
    r"""A name with what is unprintable in it escaped: ``\x0a``, ``\udc80``."""

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _UNPRINTABLE.sub(escape, text)


def remaining(sums: Mapping[str, int]) -> str:
    """``3 files, 12.3 MiB, 2 removals``; what is not there is left out."""
    words = []
    if sums["files"] or not sums["removals"]:
        words += [count(sums["files"], "file"), size(sums["bytes"])]
    if sums["removals"]:
        words.append(count(sums["removals"], "removal"))
    return ", ".join(words)


def short(seconds: float) -> str:
    """A time that may be short: ``0.35 ms``, ``12 ms``, ``1.2 s``, ``3 min 5 s``."""
    if seconds >= 60:
        return span(seconds)
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.2f} ms"


def table(
    rows: Sequence[Sequence[str]], *, indent: str = "", right: Collection[int] = ()
) -> Iterator[str]:
    """Rows as lines with aligned columns; those of `right` at their right edge."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if at in right else f"{cell:<{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield (indent + "  ".join(cells)).rstrip()


class Rate:
    """How fast a figure has grown lately."""

    #: Seconds that count as lately.
    _SPAN = 10.0

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def at(self, figure: float, now: float) -> float:
        """Growth a second up to now; 0.0 while nothing can be said."""
        self._seen.append((now, figure))
        while len(self._seen) > 2 and now - self._seen[0][0] > self._SPAN:
            self._seen.popleft()
        since, before = self._seen[0]
        return max(0.0, figure - before) / (now - since) if now > since else 0.0


class Progress:
    """A line that is written again and again, if it is a terminal that shows it."""

    def __init__(self, to: TextIO | None = None) -> None:
        self._to = sys.stderr if to is None else to
        #: Whether anybody sees it.
        self.shows = self._to.isatty()
        self._length = 0

    def show(self, text: str) -> None:
        """Replace the line."""
        if self.shows:
            text = text[: shutil.get_terminal_size().columns - 1]
            self._to.write(f"\r{text:<{self._length}}")
            self._to.flush()
            self._length = len(text)

    def tell(self, answer: Mapping[str, Any]) -> None:
        """Replace the line with the progress that a daemon tells."""
        self.show(f"{remaining(answer['progress'])} left")

    def end(self) -> None:
        """Take the line away."""
        if self.shows and self._length:
            self._to.write(f"\r{'':<{self._length}}\r")
            self._to.flush()
            self._length = 0


@contextmanager
def waiting(what: str, to: TextIO | None = None, *, pace: float = 1.0) -> Iterator[None]:
    """Show on a terminal, each `pace` seconds, how long something takes that tells nothing itself.

    What ends sooner shows nothing.
    """
    progress, over = Progress(to), threading.Event()

    def tell() -> None:
        began = time.monotonic()
        while not over.wait(pace):
            progress.show(f"{what}: {span(time.monotonic() - began)}")

    thread = threading.Thread(target=tell, daemon=True)
    if progress.shows:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if progress.shows:
            thread.join()
        progress.end()
