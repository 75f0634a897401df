"""What outlives the daemon: its record, and what systemd hands over."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from bucketfs.cli.process import fdstore
from bucketfs.fuse import keeper
from bucketfs.fuse.keeper import DEVICE, RECORD, Record
from bucketfs.fuse.settings import can_go_on, record
from bucketfs.options import Options

WANTED = Record(source="a|b", mountpoint="/mnt", settings=("ro", "x"), mount="m")


class Held:
    """A keeper that notes what it is told."""

    def __init__(self, **kept: int) -> None:
        self.kept = kept
        self.told: list[str] = []

    def keep(self, name: str, descriptor: int) -> None:
        self.told.append(f"keep {name}")

    def drop(self, name: str) -> None:
        self.told.append(f"drop {name}")


def test_a_record_comes_back() -> None:
    whole = replace(WANTED, request=b"\0\xff", answer=b"x", cache="/c", daemon=2)
    assert Record.load(whole.dump()) == whole
    assert whole.first == 2 << 32


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"1", b'{"version": 2}', WANTED.dump().replace(b"ro", b"\xff")]
)
def test_anything_else_is_no_record(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a record|of another version|utf-8|Expecting"):
        Record.load(data)


def test_a_mount_that_has_ended_is_closed() -> None:
    device, memory = os.open("/dev/null", os.O_RDWR), os.memfd_create("record")
    held = Held(**{DEVICE: device, RECORD: memory})
    assert keeper.take(held, WANTED) == (None, "")
    assert held.told == [f"drop {DEVICE}", f"drop {RECORD}"]
    for number in (device, memory):
        assert not os.path.lexists(f"/proc/self/fd/{number}")


def test_what_is_handed_over() -> None:
    environment = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": "0",
        "LISTEN_FDNAMES": "",
        "NOTIFY_SOCKET": "/run/notify",
    }
    store = fdstore.offered(environment)
    assert store is not None
    assert store.kept == {}
    assert environment == {"NOTIFY_SOCKET": "/run/notify"}


@pytest.mark.parametrize(("pid", "count"), [("1", "2"), ("", ""), ("ours", "-1")])
def test_what_is_for_others_is_left_alone(pid: str, count: str) -> None:
    pid = str(os.getpid()) if pid == "ours" else pid
    store = fdstore.offered(
        {"LISTEN_PID": pid, "LISTEN_FDS": count, "NOTIFY_SOCKET": "/run/notify"}
    )
    assert store is not None
    assert store.kept == {}


def test_nobody_listens() -> None:
    assert fdstore.offered({}) is None


def test_what_can_go_on() -> None:
    plain = Options(bucket="b", mountpoint="/mnt")
    assert can_go_on(plain)
    for other in (
        replace(plain, versions=True),
        replace(plain, follow=True),
        replace(plain, locks="bucket"),
        replace(plain, plain_fuse=True),
        replace(plain, fuse_options=("auto_unmount",)),
        replace(plain, mountpoint="/dev/fd/5"),
    ):
        assert not can_go_on(other)


def test_what_has_to_be_the_same() -> None:
    plain = Options(bucket="b", mountpoint="/mnt")
    same = record(plain)
    assert record(replace(plain, open_ttl=5.0)).settings == same.settings
    assert record(replace(plain, read_only=True)).settings != same.settings
    assert record(replace(plain, prefix="p/")).source != same.source
    assert record(replace(plain, use_cache="/other")).source != same.source


def test_who_does_not_hear_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not fdstore.FdStore({}).takes_any()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent:
        silent.bind(str(tmp_path / "silent"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "silent"))
        assert not fdstore.FdStore({}).takes_any(patience=0.01)
