"""What shells complete: the committed scripts, asked as the shells ask them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bucketfs.cli.commands import COMMANDS, completion
from bucketfs.options import TABLE

SCRIPTS = Path(__file__).parents[2] / "docs" / "completion"

#: Completes $1, the line up to the cursor, as bash would: words are cut at = and :, too.
ASK_BASH = """
source "$0"
compopt() { :; }
COMP_LINE=$1 COMP_POINT=${#1}
IFS=$'\\n' read -r -d '' -a COMP_WORDS < <(sed -E 's/[ ]+/\\n/g; s/([=:])/\\n\\1\\n/g' <<<"$1")
[[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_bucketfs
printf '%s\\n' "${COMPREPLY[@]}"
"""


def bash(line: str, directory: Path) -> list[str]:
    """What bash would put in the place of the last word, or of its part after = or :."""
    asked = ["bash", "-c", ASK_BASH, str(SCRIPTS / "bucketfs"), line]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=directory)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_the_scripts_are_current(shell: str) -> None:
    text = (SCRIPTS / completion.NAMES[shell]).read_text(encoding="utf-8")
    assert text == completion.SCRIPTS[shell](), "make docs"


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_every_command_and_option_is_in_them(shell: str) -> None:
    words = set(re.findall(r"[\w-]+", completion.SCRIPTS[shell]()))
    assert {*COMMANDS, *(row.name for row in TABLE)} <= words


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_the_shell_can_read_it(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = SCRIPTS / completion.NAMES[shell]
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bucketfs um", ["umount"]),
        ("bucketfs umount --t", ["--timeout"]),
        ("bucketfs dataset li", ["list"]),
        ("bucketfs recover --ap", ["--apply"]),
        ("bucketfs bucket mnt -o cache_s", ["cache_size="]),
        ("bucketfs bucket mnt -o ro,cache_s", ["ro,cache_size="]),
        ("bucketfs bucket mnt -o url=http://h:1,cache_s", ["1,cache_size="]),
        ("bucketfs bucket mnt -o conflict=", ["keep", "overwrite"]),
        ("bucketfs bucket mnt -o ro,passwd_file=ke", ["keys.json"]),
        ("bucketfs status ./ke", ["./keys.json"]),
        ("bucketfs completion z", ["zsh"]),
    ],
)
def test_bash(line: str, found: list[str], tmp_path: Path) -> None:
    (tmp_path / "keys.json").touch()
    assert bash(line, tmp_path) == found


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bucketfs um", "umount"),
        ("bucketfs umount --t", "--timeout"),
        ("bucketfs b m -o ro,cache_s", "ro,cache_size="),
    ],
)
def test_fish(line: str, found: str) -> None:
    ask = f"source {SCRIPTS / 'bucketfs.fish'}; complete -C '{line}'"
    done = subprocess.run(["fish", "-c", ask], capture_output=True, text=True, check=True)
    assert found in done.stdout.split()
