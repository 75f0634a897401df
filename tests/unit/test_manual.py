"""What is committed is what the table says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bucketfs.cli.options import manual
from bucketfs.options import TABLE

DOCS = Path(__file__).parents[2] / "docs"


def test_options_md_is_current() -> None:
    assert (DOCS / "options.md").read_text(encoding="utf-8") == manual.markdown(), "make docs"


def test_man_page_is_current() -> None:
    assert (DOCS / "bucketfs.1").read_text(encoding="utf-8") == manual.man_page(), "make docs"


def test_help_names_every_option_on_narrow_lines() -> None:
    text = manual.usage()
    assert all(row.name in text for row in TABLE)
    assert max(map(len, text.splitlines()[:-1])) <= 100


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_man_page_is_well_formed() -> None:
    command = ["groff", "-man", "-Tutf8", "-ww", "-z", str(DOCS / "bucketfs.1")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
