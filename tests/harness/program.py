"""A program in a process of its own: what it has open, nobody inherits and nobody closes for it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

_LOOP = """
import os, pickle, sys
names = {"os": os}
while True:
    try:
        code, values = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    names.update(values)
    try:
        try:
            answer = eval(compile(code, "program", "eval"), names)
        except SyntaxError:
            answer = exec(compile(code, "program", "exec"), names)
    except OSError as error:
        answer = error
    pickle.dump(answer, sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


class Program:
    """Runs one piece of Python after the other; names stay from one to the next."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def __call__(self, code: str, **values: object) -> Any:
        """The value of an expression, or None of statements; raises the OSError that it raised."""
        self.begin(code, **values)
        return self.end()

    def begin(self, code: str, **values: object) -> None:
        """Have it begin with a piece of code."""
        assert self._process.stdin is not None
        pickle.dump((code, values), self._process.stdin)
        self._process.stdin.flush()

    def end(self) -> Any:
        """Wait for the end of what was begun, as a call does."""
        assert self._process.stdout is not None
        answer = pickle.load(self._process.stdout)
        if isinstance(answer, OSError):
            raise answer
        return answer
