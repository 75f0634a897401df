"""Where caches live when nobody says so."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from bucketfs.cache.places import cache_root


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir="/home/somebody"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)


def test_as_told() -> None:
    assert cache_root("/data") == Path("/data")


def test_at_home() -> None:
    assert cache_root(None) == Path("/home/somebody/.cache/bucketfs")


def test_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert cache_root(None) == Path("/fast/bucketfs")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root(None) == Path("/home/somebody/.cache/bucketfs")


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setenv("HOME", "/app")
    assert cache_root(None) == Path("/app/.cache/bucketfs")


def test_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert cache_root(None) == Path("/var/cache/bucketfs")
