"""The documents hold what they say: commands, options, links, and lines of the log.

Every line of a code block that a person would copy (``bucketfs …``, a line of /etc/fstab,
``OPTIONS=`` of a unit, a dataset's file) is parsed as the program parses it.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bucketfs import errors
from bucketfs.cli.commands import COMMANDS
from bucketfs.cli.options import arguments, dataset_file
from bucketfs.cli.options.arguments import Arguments
from bucketfs.options import BY_NAME
from tests.harness.endpoint import REPOSITORY

#: docs/options.md is made of the table itself; the decisions tell of the past.
PAGES = sorted(
    [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/*.md")]
)
DECISIONS = sorted(REPOSITORY.glob("docs/decisions/*.md"))
#: What stands for something in a synopsis: it is not to be copied.
_SYNOPSIS = re.compile(r"…|\[|\||COMMAND|OPTION=")
_FENCE = re.compile(r"^```")
#: What a dataset or the environment says: what is really there is not looked at.
_STANDS_FOR = re.compile(r"\{[^}]*\}|^dataset://.*")
#: Options that a file system type in /etc/fstab stands for.
_TYPES = ("bucketfs", "fuse.bucketfs")
#: Commands that take options of a mount behind their words.
_OFFLINE = ("size", "check", "gc", "recover")


@dataclass(frozen=True)
class Line:
    """A line of a code block, with those that it goes on in."""

    page: Path
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.number}: {self.text}"


def code(page: Path) -> Iterator[Line]:
    """The lines of all code blocks, fenced or indented; a backslash joins it with the next one."""
    fenced, begun, text = False, 0, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            text += line.strip().removeprefix("$ ")
            begun = begun or number
            if text.endswith("\\"):
                text = text[:-1]
                continue
            yield Line(page, begun, text)
        begun, text = 0, ""


def commands(line: Line) -> Iterator[list[str]]:
    """The words of each call of bucketfs in a line, without the program's name."""
    for part in re.split(r"&&|\|\|?|;", line.text):
        try:
            words = shlex.split(part, comments=True)
        except ValueError:
            continue  # an apostrophe in what a program prints
        words = words[1:] if words[:1] == ["sudo"] else words
        if words[:1] == ["bucketfs"] and not _SYNOPSIS.search(part.partition("  #")[0]):
            yield words[1:]


LINES = [line for page in PAGES for line in code(page)]
CALLS = [(line, words) for line in LINES for words in commands(line)]


def accept(found: Arguments) -> None:
    """Raise ParseError if a mount would. Which bucket a file of keys names is not asked."""
    if len(found.positions) == 1 and not arguments.is_all_buckets(found):
        found.positions = ["bucket", *found.positions]
    found.positions = [_STANDS_FOR.sub("x", word) for word in found.positions]
    arguments.build(found)


def mount(words: list[str]) -> None:
    found = arguments.tokenise(words)
    if not found.flags & {"help", "version"}:
        accept(found)


def call(words: list[str]) -> None:
    """Parse a command line; raises ParseError or AssertionError."""
    if words[:1] == ["mount"] or words[0] not in COMMANDS:
        mount(words[1:] if words[0] == "mount" else words)
        return
    given = arguments.tokenise(
        [word for at, word in enumerate(words) if "-o" in (word, words[at - 1])]
    ).options
    if words[0] in _OFFLINE or words[0] == "dataset":
        accept(Arguments(positions=["bucket", "/mnt"], options=given))
    elif words[0] == "set":
        names = [word.partition("=")[0] for word in words[1:] if "=" in word]
        assert all(BY_NAME[name].live for name in names)


@pytest.mark.parametrize(("line", "words"), CALLS, ids=str)
def test_a_command(line: Line, words: list[str]) -> None:
    try:
        call(words)
    except arguments.ParseError as error:
        pytest.fail(f"{line}\n{error}")


def test_each_page_was_read() -> None:
    assert len(CALLS) > 50
    assert {line.page.name for line, _ in CALLS} >= {"README.md", "providers.md", "datasets.md"}


def test_a_wrong_option_is_found() -> None:
    with pytest.raises(arguments.ParseError):
        call(shlex.split("bucket /mnt -o use_cahce=/tmp"))
    with pytest.raises(arguments.ParseError):
        call(shlex.split("size bucket -o reguin=x"))


def option_lists() -> Iterator[tuple[Line, list[str]]]:
    """What stands in a line of /etc/fstab, or behind ``OPTIONS=`` of a unit."""
    for line in LINES:
        fields = line.text.split()
        if len(fields) == 6 and fields[2] in _TYPES:
            yield line, [fields[0], fields[1], "-o", fields[3]]
        elif line.text.lower().startswith("options=") and "bucketfs" not in line.text[:9]:
            yield line, ["bucket", "/mnt", "-o", line.text.partition("=")[2]]


@pytest.mark.parametrize(("line", "words"), list(option_lists()), ids=str)
def test_options_of_fstab_and_units(line: Line, words: list[str]) -> None:
    try:
        mount(words)
    except arguments.ParseError as error:
        pytest.fail(f"{line}\n{error}")


def test_datasets() -> None:
    """Blocks of TOML: a line ``bucket = …`` and those that follow it."""
    found = 0
    for at, line in enumerate(LINES):
        if line.text.startswith("bucket = "):
            block = [other.text for other in LINES[at : at + 8] if " = " in other.text]
            tomllib.loads("\n".join(block))
            dataset_file.parse("\n".join(block))
            found += 1
    assert found


def is_option(name: str) -> bool:
    """Whether the parser knows it; a value that is missing, or a refusal, does not matter."""
    try:
        arguments.build(Arguments(["bucket", "/mnt"], [(name, None)]))
    except arguments.ParseError as error:
        return "unknown option" not in str(error)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_mentioned(page: Path) -> None:
    """`-o NAME` in a sentence is an option."""
    names = set(re.findall(r"`-o ([a-z_]+)(?:=[^`]*)?`", page.read_text(encoding="utf-8")))
    assert [name for name in names if not is_option(name)] == []


def test_options_in_the_table_of_tuning() -> None:
    text = (REPOSITORY / "docs/tuning.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    names = {name for row in rows for name in re.findall(r"`([a-z_]+)(?:=[^`]*)?`", row[1])}
    assert len(names) > 10
    assert names <= BY_NAME.keys()


# ---- links -------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.lstrip("# ").lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    lines = page.read_text(encoding="utf-8").splitlines()
    return {anchor(line) for line in lines if line.startswith("#")}


@pytest.mark.parametrize("page", [*PAGES, *DECISIONS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for words, target in re.findall(r"\[([^]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, part = target.partition("#")
        to = Path(os.path.normpath(page.parent / path)) if path else page
        assert to.exists(), target
        # a decision that is called by its number is that one
        for number in re.findall(r"\b\d{4}\b", words if "decisions/" in path else ""):
            assert to.name.startswith(number), target
        if part:
            assert part in anchors(to), target


def test_a_word_has_one_meaning() -> None:
    glossary = (REPOSITORY / "docs/glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \|.*\| ([^|]+) \|$", glossary, re.MULTILINE)
    words = Counter(
        word.strip()
        for row, _ in rows
        if row not in {"word", "---"} and "`csi` only" not in row  # those are the interface's
        for word in row.split(",")
    )
    assert [word for word, count in words.items() if count > 1] == []
    for _, where in rows:
        for path in re.findall(r"`(\w+/[\w/]+(?:\.py)?)`", where):
            package = "" if path.startswith("tests/") else "bucketfs"
            assert (REPOSITORY / package / path).exists(), path


def test_every_page_is_in_the_contents() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for page in REPOSITORY.glob("docs/*.md"):
        assert f"(docs/{page.name}" in text


# ---- lines of the log and of the program -------------------------------------------------------

TROUBLE = REPOSITORY / "docs/troubleshooting.md"
#: Conversions of the logging module's format strings.
_CONVERSION = re.compile(r"%[-.\d]*[sdrif]")
#: A fixed part that is shorter says nothing.
_SHORTEST = 6


def templates() -> str:
    """Every string of the program, with … in place of what is filled in."""
    found = []
    for path in sorted((REPOSITORY / "bucketfs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = node.values
                found.append(
                    "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(_CONVERSION.sub("…", node.value))
    return "\n".join(found)


def quoted_lines() -> list[str]:
    """The first column of each table of the page: what is said there, in backticks."""
    rows = TROUBLE.read_text(encoding="utf-8").splitlines()
    cells = [row.split(" | ")[0] for row in rows if row.startswith("| `")]
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


def test_lines_that_are_quoted_exist() -> None:
    said = templates() + "\n" + "\n".join(os.strerror(number) for number in range(134))
    lines = quoted_lines()
    assert len(lines) > 60
    for line in lines:
        parts = [part.strip() for part in line.split("…")]
        parts = [part for part in parts if len(part) >= _SHORTEST]
        assert parts, line
        for part in parts:
            assert part in said, f"{line}: nothing says {part!r}"


def test_each_advice_is_explained() -> None:
    """What the log advises on an answer of the store has a row."""
    page = TROUBLE.read_text(encoding="utf-8")
    codes = [*errors._BY_CODE, *map(str, errors._BY_STATUS)]
    for code_ in codes:
        status = int(code_) if code_.isdecimal() else 0
        advice = errors.advice(errors.StoreError(code_, status=status))
        assert not advice or advice in page, advice
