"""Draws what a command shows on a terminal: ``draw.py FILE.svg [OPTION]… -- COMMAND…``.

Runs the command in a terminal of its own, presses Ctrl-C after so many seconds, and draws what had
been on the screen by then, all lines or those from one that has a text to one that has another.
Needs rich (extra `demo`). docs/demo.svg and docs/top.svg were made by it.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from rich.console import Console
from rich.text import Text

COLUMNS, LINES = 100, 48
#: Control sequences, the ends of lines, and text in between.
PIECE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+")
#: Sequences that set colours stay in the text.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HOME, ERASE_LINE, ERASE_TO_END, ERASE_REST = "\x1b[H", "\x1b[2K", "\x1b[K", "\x1b[J"


def shown_by(command: list[str], seconds: float) -> bytes:
    """What a command writes to its terminal until Ctrl-C."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        shown = read(ours, seconds)
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            read(ours, 0.1)
    return shown


def read(terminal: int, seconds: float) -> bytes:
    """All that is written in this time."""
    shown, end = b"", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            shown += os.read(terminal, 1 << 16)
    return shown


def screen(written: str) -> list[str]:
    """The lines that are there in the end: of one that is written anew, the last text."""
    lines, row, at_start = [""], 0, True
    for piece in PIECE.findall(written):
        if piece in {"\n", "\r", HOME}:
            row = 0 if piece == HOME else row + (piece == "\n")
            lines += [""] * (row == len(lines))
            at_start = True
        elif piece == ERASE_REST:
            del lines[row + 1 :]
        elif piece == ERASE_LINE or (piece == ERASE_TO_END and at_start):
            lines[row] = ""
        elif COLOUR.fullmatch(piece) or not piece.startswith("\x1b"):
            lines[row] = piece if at_start else lines[row] + piece
            at_start = False
    return lines


def part(lines: list[str], first: str, last: str) -> list[str]:
    """From the line that has the one text up to that before the other."""
    texts = [COLOUR.sub("", line) for line in lines]
    start = next(at for at, text in enumerate(texts) if first in text)
    stop = next((at for at, text in enumerate(texts) if at > start and last and last in text), None)
    found = lines[start:stop]
    while not COLOUR.sub("", found[-1]).strip():
        found.pop()
    return found


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description="Draws what a command shows on a terminal.")
    parser.add_argument("file", help="to be made")
    parser.add_argument("--seconds", type=float, default=5.0, help="until Ctrl-C")
    parser.add_argument("--title", default="", help="above it")
    parser.add_argument("--first", default="", help="text of the first line")
    parser.add_argument("--last", default="", help="text of the line behind the last one")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    lines = screen(shown_by(asked.command, asked.seconds).decode(errors="replace"))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in part(lines, asked.first, asked.last):
        console.print(Text.from_ansi(line), no_wrap=True, overflow="crop")
    console.save_svg(asked.file, title=asked.title)


if __name__ == "__main__":
    main()
