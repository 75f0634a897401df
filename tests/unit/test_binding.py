"""What an object calls it is given when it is made: nobody puts a function into another object.

Who reads a class then sees all that it can call. Found are functions, methods and lambdas of our
own code that are assigned to an attribute of anything but `self`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import bucketfs

ROOT = Path(bucketfs.__file__).parent
#: botocore's objects, which are changed there, have no constructor that would take this.
FOREIGN = "store/aws/connection.py"
MODULES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def names_of_functions() -> set[str]:
    """Names of all functions and methods of the package."""
    return {node.name for node in NODES if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def names_of_values() -> set[str]:
    """Names that stand for other things, too: arguments, variables, fields, properties."""
    values = {node.arg for node in NODES if isinstance(node, ast.arg)}
    for node in NODES:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            values.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            values.add(node.attr)
        elif isinstance(node, ast.FunctionDef):
            said = {each.id for each in node.decorator_list if isinstance(each, ast.Name)}
            values |= {node.name} if "property" in said else set()
    return values


NODES = [node for tree in TREES.values() for node in ast.walk(tree)]
FUNCTIONS = names_of_functions() - names_of_values()


def bound(tree: ast.AST) -> Iterator[int]:
    """Lines that put a function into another object."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not _is_function(node.value):
            continue
        for target in node.targets:
            if isinstance(target, ast.Attribute) and not _is_self(target.value):
                yield node.lineno


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def _is_function(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr == "partial"
    if isinstance(node, ast.Attribute):
        return node.attr in FUNCTIONS
    return isinstance(node, ast.Lambda) or (isinstance(node, ast.Name) and node.id in FUNCTIONS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_put_into_another_object(path: Path) -> None:
    if path != ROOT / FOREIGN:
        assert list(bound(TREES[path])) == []


@pytest.mark.parametrize(
    "line",
    [
        "other.hook = lambda: 0",
        "a.b.hook = self.keep_trying",
        "other.hook = functools.partial(f, 1)",
    ],
)
def test_that_is_noticed(line: str) -> None:
    assert list(bound(ast.parse(line)))
