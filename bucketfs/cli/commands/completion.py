"""``bucketfs completion bash|zsh|fish``: what makes a shell complete the words of this program.

All of it is made from the table of commands, their usage, and the table of options. ``make docs``
writes the three scripts into docs/completion; packages install them.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from bucketfs.cli.commands import COMMANDS
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.options import TABLE, Row

USAGE = """usage: bucketfs completion bash|zsh|fish

Prints the completion of this program for a shell. Packages install it. Without one:

  bash   bucketfs completion bash > ~/.local/share/bash-completion/completions/bucketfs
  zsh    bucketfs completion zsh > DIR/_bucketfs, where DIR is in $fpath
  fish   bucketfs completion fish > ~/.config/fish/completions/bucketfs.fish"""

#: Words of -o that are no rows of the table.
_MORE_OPTIONS = ("rw", "nonempty")
#: Switches of ``bucketfs BUCKET MOUNTPOINT``.
_MOUNT_SWITCHES = ("-f", "-d", "-o", "--help", "--version")
#: Words after the commands that have some.
_WORDS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "dataset": ("add", "list", "show", "remove"),
        "completion": ("bash", "zsh", "fish"),
        "log-level": ("crit", "err", "warn", "info", "dbg"),
    }
)
#: Values of options that are names of files.
_FILES = frozenset({"FILE", "DIR"})
_SWITCH = re.compile(r"^  ((?:-{1,2}[a-z][a-z-]*(?:, )?)+)", re.MULTILINE)


def run(argv: Sequence[str]) -> int:
    """Print the script. Raises Failure."""
    found = Parser(USAGE).parse(argv)
    if found.help:
        print(USAGE)
        return ExitCode.OK
    if len(found.rest) != 1 or found.rest[0] not in SCRIPTS:
        raise Failure(ExitCode.USAGE, USAGE.splitlines()[0])
    print(SCRIPTS[found.rest[0]](), end="")
    return ExitCode.OK


def switches(command: str) -> list[str]:
    """The switches of a command, as its usage lists them."""
    usage: str = getattr(importlib.import_module(COMMANDS[command]), "USAGE", "")
    named = [word for group in _SWITCH.findall(usage) for word in group.split(", ")]
    return [*named, *(["-o"] if "-o NAME" in usage else []), "--help"]


def bash() -> str:
    """For bash 4 and later; works without the package bash-completion."""
    commands = " ".join(COMMANDS)
    cases = "\n".join(
        f"        {name}) words='{' '.join((*_WORDS.get(name, ()), *switches(name)))}' ;;"
        for name in COMMANDS
        if name != "mount"
    )
    values = "\n".join(
        f"            {row.name}) choices='{' '.join(choices)}' ;;"
        for row in TABLE
        if (choices := _choices(row))
    )
    files = "|".join(row.name for row in TABLE if row.metavar in _FILES)
    return f"""\
# bash completion for bucketfs. Made by `make docs`.

_bucketfs_option() {{
    # the last of a comma list: the name of an option, or its value
    local list=$1 before= name choices
    [[ $list == *,* ]] && before=${{list%,*}},
    local word=${{list##*,}}
    if [[ $word != *=* ]]; then
        compopt -o nospace
        # bash replaces what stands after the last = or : only
        before=${{before##*[=:]}}
        COMPREPLY=($(compgen -P "$before" -W '{_option_words()}' -- "$word"))
        return
    fi
    name=${{word%%=*}} word=${{word#*=}}
    case $name in
{values}
            {files}) compopt -o filenames; COMPREPLY=($(compgen -f -- "$word")); return ;;
    esac
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
}}

_bucketfs() {{
    # words as they are typed: bash itself would cut them at = and :
    local line=${{COMP_LINE:0:COMP_POINT}}
    local word=${{line##* }} rest=${{line% *}} words=
    COMPREPLY=()
    if [[ ${{rest##* }} == -o ]]; then
        _bucketfs_option "$word"
        return
    fi
    if [[ $COMP_CWORD == 1 && $word != -* ]]; then
        COMPREPLY=($(compgen -W '{commands}' -- "$word"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{cases}
        *) words='{" ".join(_MOUNT_SWITCHES)}' ;;
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    else
        compopt -o filenames
        local plain=
        for plain in $words; do
            [[ $plain == -* || $plain != "$word"* ]] || COMPREPLY+=("$plain")
        done
        COMPREPLY+=($(compgen -f -- "$word"))
    fi
}}

complete -F _bucketfs bucketfs
"""


def zsh() -> str:
    """For zsh 5: a file _bucketfs in $fpath."""
    commands = "\n".join(f"    {name}" for name in COMMANDS)
    options = "\n".join(f"    {_zsh_option(row)}" for row in TABLE)
    cases = "\n".join(
        f"    {name}) _arguments {_zsh_switches(name)} '*:path:_files' ;;"
        for name in COMMANDS
        if name != "mount"
    )
    return f"""\
#compdef bucketfs
# Made by `make docs`.

_bucketfs_options() {{
  local -a options
  options=(
{options}
    rw nonempty
  )
  _values -s , 'option' $options
}}

_bucketfs() {{
  local -a commands
  commands=(
{commands}
  )
  if (( CURRENT == 2 )) && [[ $PREFIX != -* ]]; then
    _describe 'command' commands
    return
  fi
  case $words[2] in
{cases}
    *) _arguments '-f' '-d' '--help' '--version' '*-o+:options:_bucketfs_options' '*:path:_files' ;;
  esac
}}

_bucketfs "$@"
"""


def fish() -> str:
    """For fish 3."""
    lines = ["# fish completion for bucketfs. Made by `make docs`.", ""]
    first = "__fish_use_subcommand"
    lines += [f"complete -c bucketfs -n {first} -a {name}" for name in COMMANDS]
    for name in COMMANDS:
        when = f"-n '__fish_seen_subcommand_from {name}'" if name != "mount" else f"-n {first}"
        for word in _WORDS.get(name, ()):
            lines.append(f"complete -c bucketfs {when} -a {word}")
        for switch in _MOUNT_SWITCHES if name == "mount" else switches(name):
            if switch != "-o":
                lines.append(f"complete -c bucketfs {when} {_fish(switch)}")
    lines.append(f'complete -c bucketfs -s o -x -a "(__fish_append , {_option_words()})"')
    return "\n".join(lines) + "\n"


SCRIPTS: Mapping[str, Callable[[], str]] = MappingProxyType(
    {"bash": bash, "zsh": zsh, "fish": fish}
)
#: What the scripts are called where shells look for them.
NAMES: Mapping[str, str] = MappingProxyType(
    {"bash": "bucketfs", "zsh": "_bucketfs", "fish": "bucketfs.fish"}
)


def _option_words() -> str:
    return " ".join([*map(_typed, TABLE), *_MORE_OPTIONS])


def _typed(row: Row) -> str:
    return row.name if row.is_switch else f"{row.name}="


def _choices(row: Row) -> Sequence[str]:
    """The values an option can have, if they are few."""
    return row.metavar.split("|") if re.fullmatch(r"[\w-]+(\|[\w-]+)+", row.metavar) else ()


def _zsh_option(row: Row) -> str:
    """A word of ``_values``: ``name[what it does]:value:(choices)``."""
    text = row.help.partition(". ")[0].rstrip(".")
    for letter in "\\[]:":
        text = text.replace(letter, f"\\{letter}")
    word = f"{row.name}[{text}]"
    if not row.is_switch:
        action = "_files" if row.metavar in _FILES else f"({' '.join(_choices(row))})"
        word += f":{row.metavar or 'value'}:{action if action != '()' else ''}"
    return _quoted(word)


def _zsh_switches(command: str) -> str:
    words = [
        f"'*{word}+:options:_bucketfs_options'" if word == "-o" else f"'{word}'"
        for word in switches(command)
    ]
    if more := _WORDS.get(command):
        words.append(f"'1:word:({' '.join(more)})'")
    return " ".join(words)


def _fish(switch: str) -> str:
    return f"-l {switch[2:]}" if switch.startswith("--") else f"-s {switch[1:]}"


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def main() -> None:
    """Write all three into the directory named on the command line."""
    for shell, script in SCRIPTS.items():
        directory = Path(sys.argv[1])
        directory.mkdir(exist_ok=True)
        (directory / NAMES[shell]).write_text(script(), encoding="utf-8")


if __name__ == "__main__":
    main()
