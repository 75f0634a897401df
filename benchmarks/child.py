"""Work done in a process of its own, which can be ended when a mount hangs.

The process says when it is ready, begins when it is told to, and answers what it found.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Generic, Self, TypeVar

T = TypeVar("T")

#: Seconds for the work, and for what precedes it.
PATIENCE = 240.0


class WorkError(Exception):
    """The work failed, did not end in time, or its process died; the text says what."""


class Child(Generic[T]):
    """A forked process; a context manager, at whose end it is gone.

    Args:
        before: Done first, before the process is ready.
        work: Done when it is told to go on.
        patience: Seconds for each of the two.
    """

    def __init__(
        self, before: Callable[[], object], work: Callable[[], T], *, patience: float = PATIENCE
    ) -> None:
        fork = multiprocessing.get_context("fork")
        self._ours, self._theirs = fork.Pipe()
        self._patience = patience
        self._process = fork.Process(target=_run, args=(before, work, self._theirs))

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join(10)

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def wait_ready(self) -> None:
        """Return when what is done before is done.

        Raises:
            WorkError: It failed.
        """
        self._receive()

    def work(self) -> T:
        """Have the work done. The process stays, so that what it has used can still be read.

        Raises:
            WorkError: It failed.
        """
        self._ours.send("go")
        return self._receive()

    def _receive(self) -> T:
        try:
            if not self._ours.poll(self._patience):
                raise WorkError(f"no result in {self._patience:g} s")
            error, found = self._ours.recv()
        except EOFError:
            raise WorkError("the workload's process died") from None
        if error:
            raise WorkError(error)
        return found  # type: ignore[no-any-return]


def _run(before: Callable[[], object], work: Callable[[], T], parent: Connection) -> None:
    try:
        before()
        parent.send(("", None))
        parent.recv()
        parent.send(("", work()))
        # Its CPU time is read before it is gone.
        parent.recv()
    except EOFError:
        return  # the parent has seen enough
    except Exception as exc:  # noqa: BLE001  (the parent reports it)
        parent.send((f"{type(exc).__name__}: {exc}", None))
