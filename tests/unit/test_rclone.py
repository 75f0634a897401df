"""Options of rclone: each is translated, accepted, named in the log, or refused with one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bucketfs.cli.commands import mount
from bucketfs.cli.options import compat, rclone
from bucketfs.cli.options.arguments import ParseError, parse
from bucketfs.cli.options.rclone import SPELLINGS, Kind, Spelling
from bucketfs.options import BY_NAME, Encryption, Options
from bucketfs.units import GIB, MIB

ROWS = [pytest.param(row, id=row.name) for row in SPELLINGS.values()]
#: A value that each option takes which is not a text.
VALUES = {
    **dict.fromkeys(("uid", "gid", "umask", "retries", "low-level-retries"), "7"),
    **dict.fromkeys(("dir-cache-time", "contimeout", "timeout"), "5m"),
    "s3-server-side-encryption": "AES256",
    "s3-storage-class": "STANDARD_IA",
    "s3-acl": "private",
    "s3-version-at": "2026-01-31",
    "log-level": "INFO",
    "metrics-addr": ":9110",
}


def options(*words: str) -> Options:
    return parse(["bucket", "/mnt", *words])


def refusal(*words: str) -> str:
    with pytest.raises(ParseError) as caught:
        options(*words)
    line = str(caught.value)
    assert "\n" not in line
    return line


def value_of(row: Spelling) -> str | None:
    if not row.takes_value:
        return None
    return VALUES.get(row.name, "128M" if "size" in row.name or "space" in row.name else "text")


def spellings(row: Spelling) -> list[list[str]]:
    """The ways to give one option on a command line."""
    value = value_of(row)
    tail = "" if value is None else f"={value}"
    under = row.name.replace("-", "_")
    dashes = "-" if row.name in ("v", "vv", "q") else "--"
    ways = [["-o", f"{row.name}{tail}"], ["-o", f"{under}{tail}"], [f"{dashes}{row.name}{tail}"]]
    return ways if value is None else [*ways, [f"--{row.name}", value]]


@pytest.mark.parametrize("row", ROWS)
def test_each_has_one_meaning(row: Spelling) -> None:
    for words in spellings(row):
        if row.kind is Kind.REFUSED:
            assert refusal(*words).endswith(row.text)
            continue
        found = options(*words)
        if row.kind is Kind.IGNORED:
            (note,) = found.notes
            assert "without effect" in note
        else:
            assert found.notes == ()
        changed = replace(found, notes=()) != options()
        assert changed == (row.kind is Kind.OURS)


@pytest.mark.parametrize("row", ROWS)
def test_it_stands_for_an_option_that_exists(row: Spelling) -> None:
    ours = row.text.partition("=")[0]
    if row.kind is Kind.OURS:
        assert ours in BY_NAME or ours in compat.FUSE_WORDS or ours == "nonempty"
    assert row.name == row.name.lower().replace("_", "-")


@pytest.mark.parametrize(
    ("words", "attribute", "value"),
    [
        ("--s3-chunk-size 128M", "multipart_size", 128 * MIB),
        ("-o s3-chunk-size=128M", "multipart_size", 128 * MIB),
        ("-o s3_chunk_size=8192", "multipart_size", 8 * MIB),
        ("--vfs-cache-max-size=5G", "cache_size", 5 * GIB),
        ("--dir-cache-time 1h", "stat_cache_expire", 3600.0),
        ("--cache-dir /c", "use_cache", "/c"),
        ("--no-modtime", "metadata", "list"),
        ("--no-modtime=false", "metadata", "full"),
        ("--read-only", "read_only", True),
        ("--read-only=false", "read_only", False),
        ("--allow-other", "allow_other", True),
        ("--allow-non-empty", "nonempty", True),
        ("--allow-non-empty=false", "nonempty", False),
        ("--default-permissions", "fuse_options", ("default_permissions",)),
        ("--default-permissions=false", "fuse_options", ()),
        ("--umask 022", "umask", 0o22),
        ("--s3-endpoint s3.example.org", "url", "https://s3.example.org"),
        ("--s3-endpoint http://h:1", "url", "http://h:1"),
        ("--s3-region r", "region", "r"),
        ("--s3-force-path-style=false", "use_path_request_style", False),
        ("--s3-server-side-encryption aws:kms", "use_sse", Encryption("kms")),
        ("--log-level NOTICE", "dbglevel", "warning"),
        ("-vv", "dbglevel", "debug"),
        ("--use-json-log", "log_format", "json"),
        ("--ca-cert /ca", "ca_bundle", "/ca"),
        ("-o use-path-request-style", "use_path_request_style", True),
        ("-o stat-cache-expire=5", "stat_cache_expire", 5.0),
    ],
)
def test_translation(words: str, attribute: str, value: object) -> None:
    assert getattr(options(*words.split()), attribute) == value


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--s3-chunk-size=4M", "s3-chunk-size=4M: must be at least 5Mi"),
        ("--s3-chunk-size", "--s3-chunk-size: needs a value"),
        ("-o s3-chunk-size", "s3-chunk-size: needs a value"),
        ("--read-only=maybe", "read-only=maybe: neither 1 nor 0"),
        ("--dir-cache-time 2M", "dir-cache-time=2M: not a time here"),
        ("--daemon=false", "-f stays in front"),
        ("--s3-server-side-encryption x", "must be AES256 or aws:kms"),
        (
            "--vfs-cache-modus full",
            "--vfs-cache-modus: unknown option; did you mean --vfs-cache-mode?",
        ),
        ("--url=http://h", "--url: unknown option; options are written -o name=value"),
        ("--config /etc/rclone.conf", "rclone's configuration is not read"),
    ],
)
def test_what_is_wrong_is_one_line(words: str, line: str) -> None:
    assert line in refusal(*words.split())


@pytest.mark.parametrize(
    "words",
    [
        "--s3-secret-access-key=hush",
        "--s3-secret-access-key hush",
        "-o s3_secret_access_key=hush",
        "--s3-sse-customer-key hush",
        "--s3-secret-acces-key=hush",
        "-o s3-secret-acces-key=hush",
    ],
)
def test_secrets_are_refused_and_not_repeated(words: str) -> None:
    assert "hush" not in refusal(*words.split())


def test_an_fstab_line_of_rclone() -> None:
    words = (
        "rw,noauto,nofail,_netdev,x-systemd.automount,args2env,vfs_cache_mode=writes,cache_dir=/c"
    )
    found = options("-o", words)
    assert found.use_cache == "/c"
    assert [note.split()[1] for note in found.notes] == ["args2env", "vfs_cache_mode"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("remote:bucket/a/b", "rclone: bucket:/a/b, with its endpoint in -o url="),
        ("remote:bucket", "rclone: bucket, with its endpoint in -o url="),
        (":s3,provider=Ceph:bucket", "rclone's settings into -o"),
    ],
)
def test_a_remote_is_no_bucket(text: str, meant: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse([text, "/mnt"])
    assert str(caught.value).endswith(meant)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert mount.run(["--help", "rclone"]) == 0
    text = capsys.readouterr().out
    assert all(f"-{name}" in text for name in SPELLINGS)
    assert max(map(len, text.splitlines())) <= 100
    assert len(rclone.rows()) == len(SPELLINGS)
    assert mount.run(["--help"]) == 0
    assert "bucketfs help rclone" in capsys.readouterr().out
