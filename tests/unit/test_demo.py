"""The demo's words, its network, and its exit code; what it shows is in `tests/system`."""

from __future__ import annotations

import http.server
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketfs.cli.demo.demo import conclusion
from bucketfs.cli.demo.demo_mounts import Mounter
from bucketfs.cli.demo.narrator import Narrator
from bucketfs.cli.demo.network import network
from bucketfs.cli.failure import ExitCode


class TestConclusion:
    def test_all_is_well(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tell = Narrator()
        tell.checked("water is wet", good=True)
        assert conclusion(tell, Mounter("b", "http://x", tmp_path)) == ExitCode.OK
        assert capsys.readouterr().out == "ok      water is wet\n\nAll checks passed.\n"

    def test_a_check_fails(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "main.log").write_text("it is dry\n")
        (tmp_path / "far.log").touch()
        tell = Narrator()
        tell.checked("water is wet", good=False, why="drought")
        tell.checked("fire is hot", good=True)
        assert conclusion(tell, Mounter("b", "http://x", tmp_path)) == ExitCode.FAILED
        assert capsys.readouterr().out == (
            "FAILED  water is wet (drought)\nok      fire is hot\n\n1 check failed.\n"
            "What the mount 'main' logged:\nit is dry\n"
        )


class TestNetwork:
    @pytest.fixture
    def url(self) -> Iterator[str]:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
            thread.join()

    def test_bytes_pass_unchanged_and_late(self, url: str) -> None:
        body = bytes(range(256)) * 4096
        with network(url, 0.2) as between:
            begun = time.monotonic()
            assert echo(between.url, body) == body
            assert time.monotonic() - begun >= 0.2

    def test_cut_and_mended(self, url: str) -> None:
        with network(url, 0.0) as between:
            between.cut()
            with pytest.raises((urllib.error.URLError, ConnectionError)):
                echo(between.url, b"lost")
            between.mend()
            assert echo(between.url, b"back") == b"back"


def echo(url: str, body: bytes) -> bytes:
    with urllib.request.urlopen(url, data=body, timeout=30) as answer:
        return bytes(answer.read())
