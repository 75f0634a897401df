"""Help, man page and option reference, all made from the one table.

``python -m bucketfs.cli.options.manual DIRECTORY`` writes ``options.md`` and the man pages there;
a test holds the committed files to what this prints.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from bucketfs.cli.failure import ExitCode
from bucketfs.cli.options import compat, rclone
from bucketfs.options import TABLE, Group, Row

_SYNOPSIS = "bucketfs BUCKET[:/PREFIX] MOUNTPOINT [-f] [-d] [-o NAME[=VALUE],…]…"

_COMMANDS = (
    ("bucketfs BUCKET[:/PREFIX] MOUNTPOINT", "mount a bucket (also: bucketfs mount …)"),
    ("bucketfs :/ MOUNTPOINT", "mount all buckets of the account, as directories"),
    (
        "bucketfs umount [-l] [-q] [--timeout TIME] MOUNTPOINT",
        "unmount it and wait until all is in the bucket; -l: at once, even if in use or dead",
    ),
    (
        "bucketfs status [--json|--prometheus] [PATH]",
        "what mounts do, and what is not in the bucket yet",
    ),
    ("bucketfs top [--once] [--json] [PATH]", "what mounts are doing now, second by second"),
    ("bucketfs flush [PATH]", "wait until what was written is in the bucket"),
    ("bucketfs refresh PATH", "forget what is known of PATH: the next look asks the bucket"),
    ("bucketfs warm [--json] PATH…", "fetch all bytes below PATH into the cache"),
    ("bucketfs evict [--json] PATH…", "drop what the cache has below PATH"),
    ("bucketfs set OPTION=VALUE… [PATH]", "change options of a mount that stands"),
    ("bucketfs log-level LEVEL [PATH]", "how much it logs: crit, err, warn, info, dbg"),
    (
        "bucketfs restart [--timeout TIME] [PATH]",
        "have a new daemon go on with a mount of -o restart, after an upgrade for instance",
    ),
    ("bucketfs info [--json] PATH", "what the store knows of a file, and what of it is here"),
    ("bucketfs versions [--json] PATH", "the versions of a file that the bucket keeps"),
    (
        "bucketfs restore PATH --version ID | --from-archive",
        "make an old version the current one, or an archived object readable",
    ),
    ("bucketfs presign [--expires TIME] PATH", "an address at which anybody can read a file"),
    (
        "bucketfs recover [BUCKET] [--apply|--save DIR|--discard NAME…]",
        "list what dead mounts left on this machine; upload it, copy it out, or delete it",
    ),
    ("bucketfs size BUCKET[:/PREFIX]", "objects and bytes, by storage class and prefix"),
    ("bucketfs check BUCKET[:/PREFIX]", "keys that no file can have, unfinished uploads"),
    (
        "bucketfs gc [--older TIME] [--dry-run] BUCKET[:/PREFIX]",
        "abort unfinished uploads, remove what bucketfs left",
    ),
    (
        "bucketfs dataset add|list|show|remove …",
        "give a bucket with its address and options a name: bucketfs NAME MOUNTPOINT",
    ),
    ("bucketfs help [WORD]", "say more of a command or an option; help options: of all"),
    ("bucketfs completion bash|zsh|fish", "print what makes a shell complete these words"),
    ("bucketfs demo [DIR]", "try it out, with a server of its own"),
)

_SHORT_COMMANDS = (
    ("bucketfs BUCKET[:/PREFIX] MOUNTPOINT", "mount a bucket, or :/ for all buckets"),
    ("bucketfs umount MOUNTPOINT", "unmount it and wait until all is in the bucket"),
    ("bucketfs status, flush, refresh", "what mounts do; wait for the bucket; see others' changes"),
    ("bucketfs top; warm, evict; set", "watch mounts; fill or empty the cache; change options"),
    ("bucketfs info, versions, restore, presign", "ask about single files"),
    ("bucketfs size, check, gc", "without a mount: how large it is, what is odd, what to remove"),
    ("bucketfs recover", "what dead mounts left on this machine"),
    ("bucketfs dataset, completion, demo", "names for buckets; a shell's completion; try it out"),
)

_SHORT_OPTIONS = (
    ("url=URL", "address of the endpoint, if it is not AWS"),
    ("passwd_file=FILE", "ACCESS_KEY:SECRET_KEY, mode 600 [~/.passwd-s3fs, ~/.aws, environment]"),
    ("ro", "read-only"),
    ("allow_other", "let other users in"),
    ("use_cache=DIR", "directory of the block cache"),
    ("cache_size=SIZE", "its limit"),
    ("writeback", "close() waits for the local disk only"),
    ("logfile=FILE", "log there, not to syslog"),
)

_EXAMPLES = (
    "  bucketfs my-bucket ~/mnt -o url=https://s3.example.org,passwd_file=keys",
    "  bucketfs my-bucket:/data /mnt/data -o ro,public_bucket=1",
)

_MORE = "For BUCKET a dataset may stand. bucketfs COMMAND --help says more about a command."

_FLAGS = (
    ("-f", "stay in the foreground and log to standard error"),
    ("-d", "log everything"),
    ("-o NAME[=VALUE],…", "options, see below; -o may repeat, \\, is a comma inside a value"),
    ("-h, --help", "help"),
    ("-V, --version", "the version"),
)

_EXIT_CODES = {
    ExitCode.OK: "success; without -f: the bucket is mounted",
    ExitCode.FAILED: "any other failure",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.MOUNTPOINT: "the mount point is missing, busy, dead or no directory",
    ExitCode.CREDENTIALS: "no usable keys",
    ExitCode.BUCKET: "the bucket does not exist or cannot be used",
    ExitCode.DENIED: "the endpoint refused the keys",
    ExitCode.NETWORK: "the endpoint did not answer, or its certificate was refused",
    ExitCode.FUSE: "the kernel, /dev/fuse or fusermount3 refused",
}


def version() -> str:
    """``bucketfs 0.1.0``."""
    try:
        number = metadata.version("bucketfs")
    except metadata.PackageNotFoundError:
        number = "(not installed)"
    return f"bucketfs {number}"


def usage() -> str:
    """What ``--help`` prints: what most need, on one screen."""
    lines = [f"usage: {_SYNOPSIS}", "", *_two_columns(_SHORT_COMMANDS), ""]
    lines += [*_two_columns(_FLAGS, width=20), "", "Options most mounts need:"]
    lines += _two_columns(_SHORT_OPTIONS, width=20)
    lines += ["", *_EXAMPLES, "", "bucketfs help WORD says more of a command or an option;"]
    lines += ["bucketfs help options lists all options, bucketfs help rclone those of rclone."]
    return "\n".join(lines)


def options_usage() -> str:
    """What ``bucketfs help options`` prints: all commands and options."""
    lines = [f"usage: {_SYNOPSIS}", "", *_two_columns(_COMMANDS), f"  {_MORE}"]
    lines += ["", *_two_columns(_FLAGS)]
    for group in Group:
        lines += ["", f"{group}:", *_two_columns(_entries(group), width=30)]
    lines += [
        "",
        "Sizes: 10, 128M, 5Gi. Times: 60, 500ms, 5m, 1h30m.",
        "Other s3fs options are accepted or refused by name; the words of mount(8) are understood.",
        "So are those of rclone mount, also as --NAME=VALUE: bucketfs help rclone lists them.",
        "Exit codes: " + ", ".join(f"{code.value} {text}" for code, text in _EXIT_CODES.items()),
    ]
    return "\n".join(lines)


def option_usage(row: Row) -> str:
    """What ``bucketfs help OPTION`` prints."""
    also = f" (also: {', '.join(row.aliases)})" if row.aliases else ""
    text = textwrap.wrap(row.help, 98, initial_indent="  ", subsequent_indent="  ")
    default = [f"  Without it: {row.shown_default}"] if row.shown_default else []
    return "\n".join([f"-o {_label(row)}{also}", "", *text, *default])


def rclone_usage() -> str:
    """What ``--help rclone`` prints."""
    return "\n".join((_RCLONE, "", *_two_columns(rclone.rows(), width=36)))


_RCLONE = textwrap.fill(
    "Options of rclone mount, written as --NAME=VALUE, --NAME VALUE or -o NAME=VALUE, with dashes"
    " or underscores. The first argument is BUCKET[:/PREFIX], and not REMOTE:BUCKET/PATH; the"
    " endpoint goes into -o url=, and the keys into a file for -o passwd_file=.",
    100,
    break_on_hyphens=False,
)


def _entries(group: Group) -> Iterator[tuple[str, str]]:
    for row in TABLE:
        if row.group is group:
            yield _label(row), f"{row.help}{_default(row)}"


def _label(row: Row) -> str:
    if not row.metavar:
        return row.name
    return f"{row.name}[={row.metavar}]" if row.is_switch else f"{row.name}={row.metavar}"


def _default(row: Row) -> str:
    return f" [{row.shown_default}]" if row.shown_default else ""


def _two_columns(pairs: Iterable[tuple[str, str]], width: int = 40) -> Iterator[str]:
    for label, text in pairs:
        indent = " " * (width + 2)
        body = textwrap.wrap(text, 100 - width - 2)
        head = f"  {label}"
        if len(head) > width:
            yield head
        else:
            yield f"{head:<{width + 2}}{body.pop(0)}"
        for line in body:
            yield f"{indent}{line}"


def markdown() -> str:
    """``docs/options.md``."""
    lines = [
        "# Options",
        "",
        "<!-- Made by `make docs`; edit bucketfs/options.py instead. -->",
        "",
        f"    {_SYNOPSIS}",
        "",
        "Options are given with `-o`, which may repeat; each takes a comma list. A backslash or",
        "double quotes protect a comma inside a value. A later word beats an earlier one.",
        "Sizes: `10` (in the option's own unit), `128M` and `5Gi` (powers of 1024), `30GB` (of",
        "1000). Times: seconds, or `500ms`, `5m`, `1h30m`.",
        "",
        "What says `yes` under `set` can change under a mount: `bucketfs set OPTION=VALUE PATH`.",
        "All others need a new mount.",
    ]
    for group in Group:
        lines += ["", f"## {group}", "", "| option | default | set | meaning |"]
        lines.append("| --- | --- | --- | --- |")
        lines += [_markdown_row(row) for row in TABLE if row.group is group]
    lines += ["", "## Accepted without effect", ""]
    lines += ["Options of s3fs that have no meaning here. The log names each.", ""]
    lines += ["| option | why |", "| --- | --- |"]
    lines += [f"| `{name}` | {why} |" for name, why in sorted(compat.IGNORED.items())]
    lines += ["", "## Refused", "", "| option | what to do |", "| --- | --- |"]
    lines += [f"| `{name}` | {what} |" for name, what in sorted(compat.REFUSED.items())]
    lines += ["", "## Other spellings of s3fs", "", _SPELLINGS]
    lines += ["", "## Options of rclone", "", _RCLONE, ""]
    lines += ["| option | here |", "| --- | --- |"]
    lines += [f"| `{name}` | {_code(what)} |" for name, what in rclone.rows()]
    lines += ["", "## Words of mount(8)", "", _mount_words()]
    lines += ["", "## Exit codes", "", "| code | meaning |", "| --- | --- |"]
    lines += [f"| {code.value} | {text} |" for code, text in _EXIT_CODES.items()]
    lines += [
        "",
        "Called by mount(8), the program exits with 0, 1 (wrong options) or 32 (not mounted).",
    ]
    return "\n".join(lines) + "\n"


_SPELLINGS = textwrap.fill(
    "`bucket=BUCKET[:/PREFIX]` stands for the first argument, `servicepath=/PATH` is appended to"
    " `url`, `use_rrs` is `storage_class=REDUCED_REDUNDANCY`. The flag `-s` has no effect.",
    100,
    break_on_hyphens=False,
)


def _code(text: str) -> str:
    return f"`{text}`" if text.startswith("-o ") else text


def _mount_words() -> str:
    words = ", ".join(f"`{word}`" for word in sorted(compat.FUSE_WORDS))
    return textwrap.fill(
        f"`ro` and `rw` are understood. Passed on to the kernel: {words}, and SELinux contexts."
        " Accepted without effect: `_netdev`, `nofail`, `auto`, `noauto`, `user`, `users`,"
        " `owner`, `relatime`, `comment=`, `x-*` and the like. `nonempty` silences the warning"
        " about a mount point that has files in it.",
        100,
        break_on_hyphens=False,
    )


def _markdown_row(row: Row) -> str:
    label = _label(row).replace("|", "\\|")
    also = "".join(f", `{alias}`" for alias in row.aliases)
    live = "yes" if row.live else ""
    return f"| `{label}`{also} | {row.shown_default} | {live} | {row.help} |"


def man_page() -> str:
    """``bucketfs.1`` in man(7) macros."""
    lines = [
        '.\\" Made by `make docs`; edit bucketfs/options.py instead.',
        '.TH BUCKETFS 1 "" "bucketfs" "User Commands"',
        ".SH NAME",
        "bucketfs \\- mount an S3 bucket as a directory",
        ".SH SYNOPSIS",
    ]
    for command, text in _COMMANDS:
        lines += [".TP", f".B {_roff(command)}", _roff(text)]
    lines += [".SH DESCRIPTION", _roff(_DESCRIPTION), ".SH OPTIONS"]
    for flag, text in _FLAGS:
        lines += [".TP", f".B {_roff(flag)}", _roff(text)]
    for group in Group:
        lines.append(f".SS {_roff(group)}")
        for label, text in _entries(group):
            lines += [".TP", f".B {_roff(label)}", _roff(text)]
    lines += [".SH EXIT STATUS"]
    for code, text in _EXIT_CODES.items():
        lines += [".TP", f".B {code.value}", _roff(text)]
    lines += [".SH EXAMPLES"]
    for command, text in _MAN_EXAMPLES:
        lines += [".PP", _roff(text), ".PP", ".nf", f".RS 4\n{_roff(command)}\n.RE", ".fi"]
    lines += [".SH FILES", ".TP", ".B ~/.passwd\\-s3fs, /etc/passwd\\-s3fs", _roff(_FILES)]
    lines += [".TP", ".B ~/.config/bucketfs/NAME.toml, /etc/bucketfs/NAME.toml", _roff(_DATASETS)]
    lines += [".SH SEE ALSO", ".BR mount (8),", ".BR fusermount3 (1),", ".BR fstab (5)"]
    return "\n".join(lines) + "\n"


_DESCRIPTION = (
    "bucketfs shows the objects of an S3 bucket as files. The command line, the options and the"
    " password file are those of s3fs; an fstab line of s3fs works with fuse.bucketfs as its type."
    " PREFIX may have placeholders, expanded when the mount begins: {date}, {time}, {hostname},"
    " {user}, {uuid}, {env:NAME}, and of Bacalhau {jobID}, {executionID}, {nodeID}; a brace is"
    " written {{."
    " The program returns when the bucket is mounted, or says in one line why it is not. "
    "Options of rclone mount are understood as well: bucketfs help rclone. "
) + _MORE


def helper_page() -> str:
    """``mount.bucketfs.8``, also for ``mount.fuse.bucketfs``, in man(7) macros."""
    lines = [
        '.\\" Made by `make docs`; edit bucketfs/cli/options/manual.py instead.',
        '.TH MOUNT.BUCKETFS 8 "" "bucketfs" "System Administration"',
        ".SH NAME",
        "mount.bucketfs, mount.fuse.bucketfs \\- mount an S3 bucket for mount(8)",
        ".SH SYNOPSIS",
        _roff("mount -t bucketfs BUCKET[:/PREFIX] MOUNTPOINT [-o OPTIONS]"),
        ".SH DESCRIPTION",
        _roff(_HELPER),
        ".SH OPTIONS",
        _roff("All of bucketfs(1), and:"),
    ]
    for option, text in _HELPER_OPTIONS:
        lines += [".TP", f".B {_roff(option)}", _roff(text)]
    lines += [".SH EXAMPLES"]
    for line in _FSTAB:
        lines += [".PP", ".nf", f".RS 4\n{_roff(line)}\n.RE", ".fi"]
    lines += [".SH EXIT STATUS", _roff("0 mounted, 1 wrong options, 32 not mounted.")]
    lines += [".SH SEE ALSO", ".BR bucketfs (1),", ".BR mount (8),", ".BR fstab (5)"]
    return "\n".join(lines) + "\n"


_HELPER = (
    "mount(8) and systemd call this program for the types bucketfs and fuse.bucketfs. It returns"
    " when the bucket is mounted, or says in one line why it is not; a process with the name"
    " bucketfs serves the mount. umount(8) unmounts and returns at once, and the process goes on"
    " until everything is in the bucket; bucketfs umount waits for that."
)

_HELPER_OPTIONS = (
    ("_netdev, nofail, noauto, user, users, x-*, comment=", "are left to mount(8) and systemd"),
    (
        "remount,ro and remount,rw",
        "keep programs from writing, and let them; a mount that was started with ro stays so",
    ),
)

_FSTAB = (
    "my-bucket /mnt/bucket fuse.bucketfs _netdev,nofail,allow_other,url=https://s3.example.org 0 0",
    "my-bucket:/data /mnt/data bucketfs noauto,x-systemd.automount,ro 0 0",
    ":/ /mnt/all bucketfs _netdev,passwd_file=/etc/passwd-s3fs 0 0",
)


_MAN_EXAMPLES = (
    (
        "bucketfs my-bucket ~/mnt -o url=https://s3.example.org,passwd_file=keys",
        "Mount a bucket of another endpoint than Amazon's:",
    ),
    ("bucketfs umount ~/mnt", "Unmount it, and wait until everything is in the bucket:"),
    (
        "bucketfs my-bucket:/data /mnt/data -o ro,public_bucket=1",
        "Mount what lies below a prefix of a public bucket, read-only:",
    ),
    (
        "my-bucket /mnt/bucket fuse.bucketfs _netdev,nofail,allow_other,use_cache=/var/cache/b 0 0",
        "A line of /etc/fstab:",
    ),
    ("bucketfs my-bucket ~/then -o at=2026-01-31", "See the bucket as it was:"),
)

_FILES = (
    "Keys: ACCESS_KEY:SECRET_KEY, or BUCKET:ACCESS_KEY:SECRET_KEY for one bucket; mode 600"
    " (/etc/passwd-s3fs also 640); or JSON. ~/.aws/config and ~/.aws/credentials are read first."
)

_DATASETS = (
    "Datasets: bucket, prefix, url, passwd_file and options of what bucketfs NAME MOUNTPOINT"
    " mounts. A bucket of the same name is written NAME: or s3://NAME. Keys: NAME.passwd beside it."
)


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def main() -> None:
    """Write the files into the directory named on the command line."""
    directory = Path(sys.argv[1])
    (directory / "options.md").write_text(markdown(), encoding="utf-8")
    (directory / "bucketfs.1").write_text(man_page(), encoding="utf-8")
    (directory / "mount.bucketfs.8").write_text(helper_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
