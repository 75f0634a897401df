"""The examples of docs/semantics.md, each run in a mount of its own.

A fenced block of ``sh`` is one shell in an empty bucket's mount. A line that begins with ``$`` is a
command; what follows, up to the next one, is all that it prints, errors included. ``...`` stands
for any text within a line. Words behind ``sh`` are options of the mount.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import s3
from tests.harness.endpoint import REPOSITORY
from tests.harness.mounts import Mounts
from tests.harness.witness import Witness

DOCUMENT = REPOSITORY / "docs/semantics.md"
_BLOCK = re.compile(r"^```sh *(?P<options>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
MARKERS = pytest.mark.needs("kept_markers", "markers")
#: Between the outputs of two commands.
_END = "---- end of a command ----"


@dataclass(frozen=True)
class Example:
    """One fenced block.

    Attributes:
        line: Where it begins in the document.
        options: Of the mount.
        steps: Commands, and what each prints.
    """

    line: int
    options: tuple[str, ...]
    steps: tuple[tuple[str, str], ...]


def examples(text: str) -> list[Example]:
    found = []
    for block in _BLOCK.finditer(text):
        steps: list[tuple[str, list[str]]] = []
        for line in block["body"].splitlines():
            if line.startswith("$ "):
                steps.append((line.removeprefix("$ "), []))
            else:
                steps[-1][1].append(line)
        found.append(
            Example(
                line=text.count("\n", 0, block.start()) + 1,
                options=tuple(block["options"].split()),
                steps=tuple((command, "\n".join(output)) for command, output in steps),
            )
        )
    return found


EXAMPLES = examples(DOCUMENT.read_text(encoding="utf-8"))


def run(example: Example, where: Path, bucket: Witness, scratch: Path) -> list[str]:
    """Run the commands in one shell; what each of them has printed."""
    client = scratch / "s3"
    module = f"{shlex.quote(sys.executable)} -m {s3.__name__} {shlex.quote(bucket.name)}"
    client.write_text(f'#!/bin/sh\ncd {shlex.quote(str(REPOSITORY))} && exec {module} "$@"\n')
    client.chmod(0o755)
    path = f"{scratch}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"\necho '{_END}'\n".join(command for command, _ in example.steps)],
        cwd=where,
        env={**os.environ, **s3.environment(bucket), "PATH": path, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        umask=0o022,
    )
    return [output.strip("\n") for output in done.stdout.split(_END)]


def matches(expected: str, printed: str) -> bool:
    pattern = re.escape(expected).replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, printed) is not None


def needs(example: Example) -> list[pytest.MarkDecorator]:
    """Where an example shows the marker of a directory, there has to be one."""
    shown = [line for _, output in example.steps for line in output.splitlines()]
    return [MARKERS] if any(line.endswith("/") for line in shown) else []


@pytest.mark.parametrize(
    "example", [pytest.param(one, id=f"line {one.line}", marks=needs(one)) for one in EXAMPLES]
)
def test_example(example: Example, mount: Mounts, bucket: Witness, tmp_path: Path) -> None:
    mounted = mount(bucket, *example.options)
    mounted.expected.append("changed by someone else")
    printed = run(example, mounted.path, bucket, tmp_path)
    assert len(printed) == len(example.steps)
    for (command, expected), output in zip(example.steps, printed, strict=True):
        assert matches(expected, output), f"$ {command}\n{output}\n\nis not\n\n{expected}"


def test_all_are_found() -> None:
    fences = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("```sh")]
    assert len(EXAMPLES) == len(fences) > 0
    assert all(example.steps for example in EXAMPLES)


def test_an_output_that_differs_does_not_match() -> None:
    assert matches("a.conflict-...", "a.conflict-host-1")
    assert not matches("a.conflict-...", "a.conflict-host-1\nb")
    assert not matches("a", "b")
