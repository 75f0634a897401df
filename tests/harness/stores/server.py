"""What the servers have in common: processes, ports, and the wait for the first answer."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from botocore.exceptions import BotoCoreError, ClientError

from tests.harness.endpoint import REPOSITORY, Endpoint
from tests.harness.waiting import until

#: Where `.ci/store-servers` puts what is no package of the system.
INSTALLED = REPOSITORY / ".stores"

#: Seconds until a server has to answer. The slowest starts a Java machine on a busy computer.
ANSWER = 120.0


class Server(Protocol):
    """One kind of server.

    Attributes:
        title: Its name for people.
    """

    title: str

    def missing(self) -> str:
        """What has to be installed first, "" if nothing."""

    def version(self) -> str:
        """The version that is installed."""

    def serve(self, root: Path) -> AbstractContextManager[Endpoint]:
        """Run it for the length of the block, with its data below `root`, once it answers."""


@contextmanager
def process(
    command: Sequence[object], root: Path, *, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program and all it starts, in `root`, for the length of the block.

    Its output goes to ``NAME.log`` there, NAME being the program's.
    """
    words = [str(word) for word in command]
    with log_of(words[0], root).open("ab") as log:
        child = subprocess.Popen(
            words, cwd=root, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def log_of(program: str, root: Path) -> Path:
    return root / f"{Path(program).name}.log"


def await_answer(endpoint: Endpoint, child: subprocess.Popen[bytes], root: Path) -> None:
    """Return when the buckets can be listed; AssertionError with the log if that never happens."""
    client = endpoint.client()
    error: Exception | None = None

    def answers() -> bool:
        nonlocal error
        if child.poll() is not None:
            return True
        try:
            client.list_buckets()
        except (BotoCoreError, ClientError) as exc:
            error = exc
            return False
        return True

    log = log_of(str(child.args[0]), root)  # type: ignore[index]
    try:
        until(answers, f"{endpoint.url} answers", timeout=ANSWER)
    except AssertionError as exc:
        raise AssertionError(f"{exc}: {error}\n{_tail(log)}") from None
    assert child.poll() is None, f"it ended with {child.returncode}\n{_tail(log)}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def package_version(package: str) -> str:
    """The version of a Debian package, "" if it is not installed."""
    asked = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package]
    with suppress(FileNotFoundError):
        answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
        if len(answer) == 2 and answer[0] == "installed":
            return answer[1]
    return ""


def first_line(*command: object) -> str:
    """What a program says first."""
    words = [str(word) for word in command]
    answer = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    return answer.stdout.splitlines()[0]
