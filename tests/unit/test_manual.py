"""What is committed is what the table says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bucketfs.cli.commands import COMMANDS
from bucketfs.cli.commands import help as help_command
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.main import suggested
from bucketfs.cli.options import manual
from bucketfs.options import TABLE

DOCS = Path(__file__).parents[2] / "docs"


def test_options_md_is_current() -> None:
    assert (DOCS / "options.md").read_text(encoding="utf-8") == manual.markdown(), "make docs"


def test_man_page_is_current() -> None:
    assert (DOCS / "bucketfs.1").read_text(encoding="utf-8") == manual.man_page(), "make docs"


def test_the_helpers_man_page_is_current() -> None:
    text = (DOCS / "mount.bucketfs.8").read_text(encoding="utf-8")
    assert text == manual.helper_page(), "make docs"


def test_help_fits_on_a_screen() -> None:
    lines = manual.usage().splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 100


def test_the_long_help_names_every_option_on_narrow_lines() -> None:
    text = manual.options_usage()
    assert all(row.name in text for row in TABLE)
    assert max(map(len, text.splitlines()[:-1])) <= 100


@pytest.mark.parametrize("word", ["", "mount", "options", "rclone", *COMMANDS])
def test_help_of_a_word(word: str) -> None:
    assert help_command.about(word).startswith(("usage: bucketfs", "Options of rclone"))


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("cache_size", "-o cache_size=SIZE"),
        ("cache-size=1G", "Limit of the block cache"),
        ("sigv4", "accepted without effect"),
        ("proxy", "is refused: set HTTPS_PROXY"),
    ],
)
def test_help_of_an_option(word: str, text: str) -> None:
    assert text in help_command.about(word)


def test_help_of_a_word_that_is_a_command_and_an_option() -> None:
    text = help_command.about("versions")
    assert text.startswith("usage: bucketfs versions")
    assert "-o versions\n" in text


def test_help_of_nothing_we_have() -> None:
    with pytest.raises(Failure, match="did you mean umount") as caught:
        help_command.about("umuont")
    assert caught.value.code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("unmount /mnt", "umount"),
        ("list", "status"),
        ("statsu", "status"),
        ("--help", ""),
        ("status-bucket /mnt", ""),
        ("list /mnt -o ro", ""),
        ("my-bucket", ""),
    ],
)
def test_words_that_are_no_commands(line: str, meant: str) -> None:
    assert suggested(line.split()) == meant


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
@pytest.mark.parametrize("page", ["bucketfs.1", "mount.bucketfs.8"])
def test_man_page_is_well_formed(page: str) -> None:
    command = ["groff", "-man", "-Tutf8", "-ww", "-z", str(DOCS / page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
