"""Imports run one way: csi → cli → fuse → tree → file → cache → locks → store.base, also within."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import bucketfs

ROOT = Path(bucketfs.__file__).parent

#: From the kernel's side to the bucket's; a package imports only what stands behind it.
ORDER = ("csi", "cli", "fuse", "tree", "file", "cache", "locks", "store")

#: The rooms and modules of a package, from its door to its foundations; each imports only those
#: behind it, and modules that are not named here are known to all of the package.
ROOMS = {
    "cli": ("main", "demo", "commands", "process", "socket", "options"),
    "tree": ("account", "tree", "namespace", "saving", "prefetch", "lookup", "core"),
    "store": ("opening", "layers", "aws", "http"),
}

#: Importable from everywhere; they import no package of ORDER.
GROUND = {
    "errors",
    "clock",
    "durations",
    "log",
    "options",
    "option_row",
    "owned",
    "units",
    "credentials",
    "passwd",
    "repeats",
    "key_json",
}

#: The only modules that may know the AWS library or an HTTP library.
WIRE = {
    "aiobotocore",
    "botocore",
    "boto3",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "aiohttp",
    "h11",
    "httptools",
}
MAY_USE_WIRE = ("bucketfs.store.", "bucketfs.cli.demo.demo")

#: What the layers above know of the store: what it is asked, and how long listings are read.
INTERFACE = ("bucketfs.store.base", "bucketfs.store.long_listing")

MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = ["bucketfs", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(part for part in parts if part != "__init__")


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "bucketfs" else None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_direction(path: Path) -> None:
    name, own = name_of(path), layer(name_of(path))
    for imported in imports(path):
        other = layer(imported)
        if other not in ORDER:
            continue
        if own in ORDER:
            assert ORDER.index(own) <= ORDER.index(other), f"{name} imports {imported}"
        else:
            assert name == "bucketfs.__main__", f"{name} imports {imported}"


def room(name: str) -> str:
    """The second part of a module's name in its package; "" for the package itself."""
    return (*name.split("."), "", "")[2]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_direction_inside(path: Path) -> None:
    name = name_of(path)
    rooms = ROOMS.get(layer(name) or "", ())
    for imported in imports(path):
        # a package is imported for its modules, which are named beside it
        if layer(imported) != layer(name) or imported.count(".") < 2:
            continue
        own, other = room(name), room(imported)
        if own in rooms and other in rooms:
            assert rooms.index(own) <= rooms.index(other), f"{name} imports {imported}"
        else:
            assert own in rooms or other not in rooms, f"{name} imports {imported}"


def test_no_two_modules_of_one_name() -> None:
    names = Counter(path.stem for path in MODULES if path.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_store_interface_is_used_above_it(path: Path) -> None:
    own = layer(name_of(path))
    for imported in imports(path):
        if layer(imported) != "store" or own in {"store", "cli", "csi"}:
            continue
        allowed = imported == "bucketfs.store" or imported.startswith(INTERFACE)
        assert allowed, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_stay_behind_their_walls(path: Path) -> None:
    name = name_of(path)
    for imported in imports(path):
        library = imported.split(".")[0]
        if library in WIRE:
            assert name.startswith(MAY_USE_WIRE), f"{name} imports {imported}"
        if library == "pyfuse3":
            assert layer(name) == "fuse", f"{name} imports {imported}"


def loaded(module: str) -> set[str]:
    """The libraries that importing a module loads."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("command", ["mount", "helper", "recover", "size", "check", "gc"])
def test_what_is_wrong_with_a_command_line_is_said_without_the_wire(command: str) -> None:
    assert not loaded(f"bucketfs.cli.commands.{command}") & {*WIRE, "pyfuse3"}


@pytest.mark.parametrize(
    "command",
    ["umount", "status", "top", "flush", "refresh", "warm", "evict", "set", "info", "dataset"],
)
def test_commands_that_ask_a_mount_start_at_once(command: str) -> None:
    assert not loaded(f"bucketfs.cli.commands.{command}") & {*WIRE, "pyfuse3", "trio"}


def test_ground_modules_exist() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} >= GROUND
