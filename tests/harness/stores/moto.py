"""moto, the server that the tests start by themselves, here as one of many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tests.harness.endpoint import Endpoint, embedded


class Moto:
    title = "moto"

    def missing(self) -> str:
        return ""

    def version(self) -> str:
        return version("moto")

    @contextmanager
    def serve(self, root: Path) -> Iterator[Endpoint]:
        with embedded(root) as endpoint:
            yield endpoint
