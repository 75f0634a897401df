"""The control socket's words, its places, its server; and what people are shown."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.cli import mounts, show
from bucketfs.cli.commands import status, umount
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options.parser import Parser
from bucketfs.cli.process import unmounting
from bucketfs.cli.socket import client, control, protocol, report, runtime
from bucketfs.cli.socket.protocol import ProtocolError, Request
from bucketfs.file.readers import Served
from bucketfs.fuse.calls import Calls
from bucketfs.tree.core.stages import Stage
from bucketfs.tree.saving.outstanding import Held, Remaining, Waiting
from bucketfs.tree.saving.save import Uploaded
from tests.harness.mounts import as_user
from tests.harness.waiting import until

PATHS = st.binary(max_size=300).map(os.fsdecode)


class TestProtocol:
    @given(PATHS, st.sampled_from(["flush", "status"]))
    def test_every_path_survives(self, path: str, do: str) -> None:
        line = protocol.encode({"do": do, "path": path})
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        assert protocol.request_of(line) == Request(do, path.strip("/"))

    def test_the_longest_path_fits(self) -> None:
        assert len(protocol.encode({"do": "flush", "path": "\udcff" * 4096})) < (
            protocol.LONGEST_REQUEST
        )

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"\n",
            b"{",
            b"[]",
            b"\xff",
            b"{}",
            b'{"v":2,"do":"status"}',
            b'{"v":1}',
            b'{"v":1,"do":7}',
            b'{"v":1,"do":"flush","path":["a"]}',
            b"[" * 60_000,
        ],
    )
    def test_nonsense_is_refused(self, line: bytes) -> None:
        with pytest.raises(ProtocolError):
            protocol.request_of(line)

    def test_what_is_not_known_is_ignored(self) -> None:
        assert protocol.request_of(b'{"v":1,"do":"status","new":1}') == Request("status")


class TestUmount:
    """``bucketfs umount`` beside a daemon that is none of the best."""

    @pytest.fixture
    def answers(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
        """What the daemon will say; nothing is really mounted, and unmounting works."""
        said: list[dict[str, Any]] = []
        mount = mounts.Mount("/m", mounts.TYPE, "b", device="0:50")
        daemon = client.Daemon(tmp_path / "socket", 0, "/m", "b", "0:50", draining=False)

        class Talk(nullcontext[None]):
            pid = 123

            def answers(self) -> Iterator[dict[str, Any]]:
                yield from said
                raise client.NoDaemon("the daemon has ended")

        known = [[mount], []]  # before and after
        monkeypatch.setattr(mounts, "current", lambda: known.pop(0))
        monkeypatch.setattr(client, "reachable", lambda _known: [daemon])
        monkeypatch.setattr(client, "ask", lambda _daemon, _do: Talk())
        monkeypatch.setattr(client, "await_exit", lambda _pid, _timeout: True)
        monkeypatch.setattr(unmounting, "unmount", lambda _path: None)
        return said

    def line(self) -> str:
        with pytest.raises(Failure) as caught:
            umount.run(["/m"])
        assert caught.value.code == ExitCode.FAILED
        return caught.value.line

    def test_all_is_well(self, answers: list[dict[str, Any]]) -> None:
        answers += [{"done": {"left": [], "files": 0, "removals": 0}}]
        assert umount.run(["/m"]) == ExitCode.OK

    def test_what_is_left(self, answers: list[dict[str, Any]]) -> None:
        left = [{"path": name} for name in "abcd"]
        answers += [{"done": {"left": left, "files": 4, "removals": 1}}]
        assert self.line() == (
            "/m: unmounted; 4 files could not be saved (a, b, c, …) and stay on this machine:"
            " bucketfs recover; 1 removal could not be done in the bucket"
        )

    @pytest.mark.usefixtures("answers")
    def test_a_daemon_that_dies(self) -> None:
        assert self.line() == "/m: unmounted, but the daemon has ended; see its log"

    @pytest.mark.usefixtures("answers")
    def test_nothing_is_unmounted_when_nobody_can_be_asked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ask(_daemon: object, _do: str) -> None:
            raise client.NoDaemon("the daemon does not answer")

        def unmount(_path: str) -> None:
            pytest.fail("it is unmounted")

        monkeypatch.setattr(client, "ask", ask)
        monkeypatch.setattr(unmounting, "unmount", unmount)
        assert self.line().startswith("/m: not unmounted: the daemon does not answer; ")

    def test_a_daemon_that_does_not_end(
        self, answers: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers += [{"done": {"left": [], "files": 0, "removals": 0}}]
        monkeypatch.setattr(client, "await_exit", lambda _pid, _timeout: False)
        assert self.line() == "/m: unmounted; process 123 still runs after 60 s; see its log"


class TestUnmounting:
    @pytest.fixture
    def tools(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The only directory in which programs are found, for an ordinary user."""
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        return tmp_path

    def program(self, path: Path, does: str) -> None:
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)

    def test_without_mtab(self, tools: Path) -> None:
        """fusermount3 ends so where there is no /etc/mtab, as in a bare container."""
        self.program(tools / "fusermount3", "echo failed to open /etc/mtab >&2; exit 1")
        self.program(tools / "umount", f'[ "$*" = "-l /m" ] && : > {tools}/unmounted')
        unmounting.unmount("/m", lazy=True)
        assert (tools / "unmounted").exists()

    @pytest.mark.parametrize(
        ("said", "line"),
        [
            ("device busy", "/m: in use; "),
            ("no such mount", "/m: no such mount"),
            ("", "/m: cannot"),
        ],
    )
    def test_refused(self, tools: Path, said: str, line: str) -> None:
        self.program(tools / "fusermount3", f"echo {said} >&2; exit 1")
        self.program(tools / "umount", "echo must be superuser >&2; exit 32")
        with pytest.raises(Failure) as caught:
            unmounting.unmount("/m")
        assert caught.value.line.startswith(line)


class TestPlaces:
    def test_of_root(self) -> None:
        assert runtime.directories(0) == [Path("/run/bucketfs"), Path("/tmp/bucketfs-0")]

    def test_of_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/x")
        assert runtime.directories(12345) == [
            Path("/run/user/12345/bucketfs"),
            Path("/tmp/bucketfs-12345"),
        ]
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        assert runtime.directories(12345)[0] == Path("/x/bucketfs")
        monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
        assert runtime.directories(12345)[0] == Path("/run/user/12345/bucketfs")

    def test_only_private_ones_count(self, tmp_path: Path) -> None:
        uid = os.getuid()
        place = tmp_path / "place"
        assert not runtime.is_private(place, uid)
        place.mkdir(mode=0o700)
        assert runtime.is_private(place, uid)
        assert not runtime.is_private(place, uid + 1)
        place.chmod(0o750)
        assert not runtime.is_private(place, uid)
        link = tmp_path / "link"
        place.chmod(0o700)
        link.symlink_to(place)
        assert not runtime.is_private(link, uid)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Directories for sockets that no mount uses."""
    found = [tmp_path / "first", tmp_path / "second"]
    monkeypatch.setattr(runtime, "directories", lambda uid: found)
    return found


class TestSockets:
    def test_private_and_found(self, places: list[Path]) -> None:
        listener, path = runtime.listen()
        with listener:
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.stat().st_mode & 0o777 == 0o700
            assert list(runtime.sockets(os.getuid())) == [path]
            connection = runtime.connect(path, os.getuid(), 1)
            assert connection is not None
            with connection:
                assert runtime.peer(connection) == (os.getpid(), os.getuid())

    def test_a_dead_one_is_removed_by_who_asks(self, places: list[Path]) -> None:
        listener, path = runtime.listen()
        listener.close()
        assert client.daemons([os.getuid()]) == []
        assert not path.exists()

    def test_a_dead_one_is_removed_by_the_next_mount(self, places: list[Path]) -> None:
        listener, path = runtime.listen()
        listener.close()
        second, other = runtime.listen()
        with second:
            assert list(runtime.sockets(os.getuid())) == [other]
            assert not path.exists()

    def test_a_place_of_ours_is_made_private(self, places: list[Path]) -> None:
        places[0].mkdir(mode=0o700)
        places[0].chmod(0o777)
        listener, path = runtime.listen()
        with listener:
            assert path.parent == places[0]
            assert places[0].stat().st_mode & 0o777 == 0o700

    @pytest.mark.needs_root("acts as another user")
    @pytest.mark.parametrize("kind", ["owner", "link", "parent"])
    def test_a_place_of_another_user_is_passed_over(
        self, places: list[Path], tmp_path: Path, kind: str
    ) -> None:
        theirs = tmp_path / "theirs"
        theirs.mkdir(mode=0o700)
        if kind == "owner":
            places[0].mkdir(mode=0o700)
            os.chown(places[0], 4711, 4711)
        elif kind == "link":
            places[0].symlink_to(theirs)
        else:
            os.chown(theirs, 4711, 4711)
            places[0] = theirs / "first"
        listener, path = runtime.listen()
        with listener:
            assert path.parent == places[1]

    def test_no_place(self, places: list[Path]) -> None:
        for place in places:
            place.write_text("in the way")
        with pytest.raises(OSError, match=r"private|exists|directory"):
            runtime.listen()

    @pytest.mark.needs_root("acts as another user")
    def test_one_of_another_user_is_not_believed(self, places: list[Path]) -> None:
        listener, path = runtime.listen()
        with listener:
            path.parent.chmod(0o755)
            path.chmod(0o666)
            root = runtime.connect(path, 4711, 1)
            assert root is not None  # it may stand in for anyone
            root.close()
            as_other = as_user(lambda: _impostor(path.parent))
            assert as_other == "no connection"

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"\n",
            b"no JSON\n",
            b'{"v":1,"done":[]}\n',
            b'{"v":1,"done":{}}\n',
            b'{"v":1,"error":"\\u001b[2J"}\n',
            b'{"v":1}\n' * 3,
            b"drip",
        ],
    )
    def test_nonsense_of_a_daemon_is_survived(
        self, places: list[Path], answer: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client, "_PATIENCE_HELLO", 0.3)
        listener, _ = runtime.listen()
        over = threading.Event()
        server = threading.Thread(target=_babble, args=(listener, answer, over))
        server.start()
        try:
            assert client.daemons([os.getuid()]) == []
        finally:
            over.set()
            listener.close()
            server.join()


def _babble(listener: socket.socket, answer: bytes, over: threading.Event) -> None:
    """Serve one client badly."""
    connection, _ = listener.accept()
    with connection, suppress(OSError):
        while answer == b"drip" and not over.wait(0.01):
            connection.sendall(b"x")
        connection.sendall(answer)


def _impostor(directory: Path) -> str:
    """A user's socket where another one's is looked for."""
    with socket.socket(socket.AF_UNIX) as fake:
        fake.bind(f"/tmp/bucketfs-test-{os.getpid()}")
        fake.listen()
        try:
            found = runtime.connect(Path(fake.getsockname()), os.getuid() + 1, 1)
        finally:
            os.unlink(fake.getsockname())
    return "no connection" if found is None else "connected"


@asynccontextmanager
async def serving(**commands: control.Command) -> AsyncIterator[Path]:
    async with trio.open_nursery() as nursery:
        await nursery.start(control.Server(commands).serve)
        (path,) = runtime.sockets(os.getuid())
        yield path
        nursery.cancel_scope.cancel()
    assert list(runtime.sockets(os.getuid())) == []


async def echo(request: Request, tell: control.Tell) -> dict[str, Any]:
    await tell({"half": True})
    return {"path": request.path}


async def talk(path: Path, line: bytes) -> list[dict[str, Any]]:
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(line)
        said = b"".join([piece async for piece in stream])
    return [json.loads(line) for line in said.splitlines()]


class TestServer:
    async def test_answers(self, places: list[Path]) -> None:
        async with serving(echo=echo) as path:
            assert await talk(path, protocol.encode({"do": "echo", "path": "/a/b/"})) == [
                {"v": 1, "progress": {"half": True}},
                {"v": 1, "done": {"path": "a/b"}},
            ]

    @pytest.mark.parametrize(
        ("line", "error"),
        [
            (b"nonsense\n", "not a JSON object"),
            (b'{"v":1,"do":"rm"}\n', "rm: not known here"),
            (b'{"v":9,"do":"echo"}\n', "version 9"),
            (b"x" * (protocol.LONGEST_REQUEST + 1), "too long"),
        ],
    )
    async def test_refuses(self, places: list[Path], line: bytes, error: str) -> None:
        async with serving(echo=echo) as path:
            (answer,) = await talk(path, line)
            assert error in answer["error"]

    @pytest.mark.mock_clock
    async def test_a_silent_client_is_hung_up_on(self, places: list[Path]) -> None:
        async with serving(echo=echo) as path, await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(b'{"v":1')
            with trio.fail_after(60):
                assert await stream.receive_some() == b""

    async def test_who_hangs_up_ends_the_waiting(self, places: list[Path]) -> None:
        begun, ended = trio.Event(), trio.Event()

        async def wait(request: Request, tell: control.Tell) -> dict[str, Any]:
            begun.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.set()
            raise AssertionError

        async with serving(wait=wait, echo=echo) as path:
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(protocol.encode({"do": "wait"}))
                await begun.wait()
            with trio.fail_after(20):
                await ended.wait()
            assert len(await talk(path, protocol.encode({"do": "echo"}))) == 2

    async def test_a_bug_ends_one_answer_only(
        self, places: list[Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def broken(request: Request, tell: control.Tell) -> dict[str, Any]:
            raise ValueError("a bug")

        async with serving(broken=broken, echo=echo) as path:
            assert await talk(path, protocol.encode({"do": "broken"})) == []
            assert len(await talk(path, protocol.encode({"do": "echo"}))) == 2
        assert "the mount goes on" in caplog.text

    @pytest.mark.needs_root("acts as another user")
    async def test_other_users_get_nothing(
        self, places: list[Path], caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        async with serving(echo=echo) as path:
            path.chmod(0o666)
            directory = os.open(path.parent, os.O_PATH)  # pytest's directories are closed to others
            path.parent.chmod(0o755)
            answer = await trio.to_thread.run_sync(
                as_user, lambda: _ask(f"/proc/self/fd/{directory}/{path.name}")
            )
            os.close(directory)
            path.parent.chmod(0o700)
        assert "belongs to another user" in str(answer)
        assert "user 1000 asked" in caplog.text

    async def test_without_a_place_the_mount_goes_on(
        self, places: list[Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        for place in places:
            place.write_text("in the way")
        async with trio.open_nursery() as nursery:
            await nursery.start(control.Server({}).serve)
        assert "no control socket" in caplog.text


def _ask(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(protocol.encode({"do": "echo"}))
        return connection.recv(1000).decode()


MOUNTINFO = r"""22 1 8:1 / / rw - ext4 /dev/sda1 rw
40 22 0:50 / /mnt/a\040b rw - fuse.bucketfs one rw,user_id=1000,group_id=0
41 22 0:50 /sub/dir /srv/bound rw - fuse.bucketfs one rw,user_id=1000
42 40 0:51 / /mnt/a\040b/inner rw - tmpfs none rw
43 22 0:52 / /mnt/a rw - fuse.bucketfs two rw,user_id=0"""
KNOWN = mounts.parse_mountinfo(MOUNTINFO.splitlines())


class TestLocate:
    def test_parsed(self) -> None:
        assert [(m.device, m.root, m.user) for m in KNOWN[1:3]] == [
            ("0:50", "/", 1000),
            ("0:50", "/sub/dir", 1000),
        ]

    @pytest.mark.parametrize(
        ("path", "source", "rest"),
        [
            ("/mnt/a b", "one", ""),
            ("/mnt/a b/", "one", ""),
            ("/mnt/a b/x/../y/z", "one", "y/z"),
            ("/mnt/a", "two", ""),
            ("/mnt/a/inner/x", "two", "inner/x"),
            ("/srv/bound/f", "one", "f"),
        ],
    )
    def test_found(self, path: str, source: str, rest: str) -> None:
        mount, below = client.locate(path, KNOWN)
        assert (mount.source, below) == (source, rest)

    @pytest.mark.parametrize("path", ["/", "/mnt", "/mnt/ab", "/mnt/a b/inner/x", "/nowhere"])
    def test_not_found(self, path: str) -> None:
        with pytest.raises(Failure) as failure:
            client.locate(path, KNOWN[:3] + KNOWN[3:4])
        assert failure.value.code is ExitCode.MOUNTPOINT

    def test_through_a_symlink(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("/mnt/a b/x")
        mount, below = client.locate(f"{tmp_path}/link/y", KNOWN)
        assert (mount.source, below) == ("one", "x/y")


class TestWords:
    @pytest.fixture
    def parser(self) -> Parser:
        parser = Parser("usage: x\nmore")
        parser.add_argument("-l", "--lazy", action="store_true")
        parser.add_argument("--timeout")
        parser.add_argument("-o", dest="options", action="append", default=[])
        return parser

    def test_sorted(self, parser: Parser) -> None:
        found = parser.parse(["a", "-l", "--timeout", "5", "b", "--timeout=6", "--", "-b", "--"])
        assert (found.rest, found.lazy, found.help) == (["a", "b", "-b", "--"], True, False)
        assert found.timeout == "6"

    def test_given_often(self, parser: Parser) -> None:
        found = parser.parse(["-o", "a=1,b", "x", "-oc", "-l", "-l", "-o", "d"])
        assert (found.options, found.rest, found.lazy) == (["a=1,b", "c", "d"], ["x"], True)
        assert parser.parse([]).options == []

    @pytest.mark.parametrize("name", ["-x", "--timeout", "-", "", "@f", "\udcff\n", "%s", "a=-"])
    def test_odd_names(self, parser: Parser, name: str) -> None:
        assert parser.parse(["--", "a", name]).rest == ["a", name]
        assert parser.parse([f"--timeout={name}"]).timeout == name

    @pytest.mark.parametrize("name", ["-", "", "@f", "\udcff\n", "%s", "a=b", "a b"])
    def test_odd_names_in_the_open(self, parser: Parser, name: str) -> None:
        found = parser.parse([name, "--timeout", name])
        assert (found.rest, found.timeout) == ([name], name)

    @pytest.mark.parametrize(
        "argv",
        [
            ["-x"],
            ["--timeout"],
            ["--timeout", "--"],
            ["--timeout=--"],
            ["--time=1"],
            ["--lazy=1"],
            ["a", "--x\n%s"],
        ],
    )
    def test_refused(self, parser: Parser, argv: list[str]) -> None:
        with pytest.raises(Failure) as failure:
            parser.parse(argv)
        assert failure.value.code is ExitCode.USAGE
        assert failure.value.line.endswith("; usage: x")
        assert "\n" not in failure.value.line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestShow:
    @pytest.mark.parametrize(
        ("count", "text"),
        [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (230 << 20, "230 MiB"),
            (5 << 60, "5120 PiB"),
        ],
    )
    def test_size(self, count: int, text: str) -> None:
        assert show.size(count) == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(-3, "0 s"), (0.9, "0 s"), (59, "59 s"), (3661, "1 h 1 min"), (360_000, "4 d 4 h")],
    )
    def test_span(self, seconds: float, text: str) -> None:
        assert show.span(seconds) == text

    @given(PATHS)
    def test_names_are_fit_for_a_terminal(self, text: str) -> None:
        assert show.name(text).isprintable() or not text.isprintable()
        assert not any(ord(letter) < 32 or ord(letter) == 0x9B for letter in show.name(text))
        show.name(text).encode()

    def test_remaining(self) -> None:
        assert show.remaining({"files": 1, "bytes": 5, "removals": 0}) == "1 file, 5 B"
        assert show.remaining({"files": 0, "bytes": 0, "removals": 2}) == "2 removals"
        assert show.remaining({"files": 0, "bytes": 0, "removals": 0}) == "0 files, 0 B"

    def test_progress_is_for_terminals(self) -> None:
        plain = io.StringIO()
        progress = show.Progress(plain)
        progress.show("x")
        progress.end()
        assert plain.getvalue() == ""

        terminal = Terminal()
        progress = show.Progress(terminal)
        progress.show("long text")
        progress.show("short")
        progress.end()
        assert terminal.getvalue() == "\rlong text\rshort    \r     \r"

    def test_what_takes_long_says_how_long(self) -> None:
        plain, terminal = io.StringIO(), Terminal()
        for to in (plain, terminal):
            with show.waiting("copy of f", to, pace=0.01):
                if to is terminal:
                    until(lambda: terminal.getvalue() != "", "a line")
        assert plain.getvalue() == ""
        assert terminal.getvalue().startswith("\rcopy of f: 0 s")
        assert terminal.getvalue().endswith(" \r")
        at_once = Terminal()
        with show.waiting("copy of f", at_once):
            pass
        assert at_once.getvalue() == ""


def item(**other: Any) -> dict[str, Any]:
    said = {"path": "d/f", "size": 5, "state": "waiting", "since": 90.0, "tries": 0, "error": ""}
    return said | other


def told(*items: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {
        "source": "bucket", "mountpoint": "/m", "pid": 7, "state": "mounted", "uptime": 61.0,
        "version": "bucketfs 0", "endpoint": "AWS", "open_files": 1,
        "cache": {"directory": "/c", "held": 0, "limit": 1 << 30},
        "requests": {"PutObject": {"requests": 3, "failures": 1, "sent": 9, "received": 0}},
        "waiting": {
            "files": len(items), "bytes": 5, "removals": 0, "being_written": 0,
            "failing": sum(bool(one["error"]) for one in items), "items": items,
        },
        "failed": [], **other,
    }  # fmt: skip


class TestStatus:
    def test_lines(self) -> None:
        bad = item(path="a\nb", tries=2, error="AccessDenied")
        text = "\n".join(status.lines(told(item(), bad), 100.0))
        assert "bucket at /m\n" in text
        assert "PutObject 3 (1 failed)" in text
        assert "9 B sent" in text
        assert "d/f" in text
        assert "10 s" in text
        assert "a\\x0ab" in text
        assert "2 tries: AccessDenied" in text

    def test_many_are_counted(self) -> None:
        lines = list(status.lines(told(*[item()] * 50), 100.0))
        assert sum("d/f" in line for line in lines) == 20
        assert "and 30 more" in lines[-1]

    def test_what_fails_behind_many_that_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(report, "MOST_NAMED", 1)
        waits = Waiting("a", 1, Stage.PROMISED, since=1.0, tries=0, error="")
        fails = Waiting("b", 1, Stage.RETRYING, since=2.0, tries=1, error="AccessDenied")
        outstanding = SimpleNamespace(
            waiting=lambda: [waits, fails],
            remaining=lambda: Remaining(2, 2, 0),
            held=lambda: Held(Counter([Stage.PROMISED, Stage.RETRYING]), failing=1, oldest=1.0),
        )
        files = SimpleNamespace(cache=SimpleNamespace(directory="/c"), served=Served())
        tree = SimpleNamespace(
            outstanding=outstanding,
            saver=SimpleNamespace(uploaded=Uploaded(), conflicts=0),
            follower=SimpleNamespace(following=None),
            state=SimpleNamespace(given_up=[], files=files),
        )
        service = SimpleNamespace(
            buckets=SimpleNamespace(trees=[tree]),
            pool=SimpleNamespace(held=0, capacity=0),
            operations=SimpleNamespace(calls=Calls(), open_files=0),
        )
        found = told() | report.service(service)  # type: ignore[arg-type]
        assert [one["path"] for one in found["waiting"]["items"]] == ["a"]
        assert not status.is_well(found)
        assert "1 of what waits" in "\n".join(status.lines(found, 100.0))

    @pytest.mark.parametrize(
        ("feed", "words"),
        [
            ({"connected": True, "since": 40.0}, "follow connected for 1 min"),
            (
                {"connected": False, "since": 97.0, "next_try": 108.0, "error": "a\nb"},
                "down for 3 s, next try in 8 s: a\\x0ab",
            ),
            ({"connected": False, "since": 97.0, "next_try": 0.0, "error": "No"}, "not offered"),
            ({"connected": True, "since": 99.0, "place": "b/"}, "follow b connected for 1 s"),
        ],
    )
    def test_feeds(self, feed: dict[str, Any], words: str) -> None:
        said = {"place": "", "next_try": 0.0, "error": ""} | feed
        text = " ".join(status.lines(told(follow=[said]), 100.0))
        assert words in " ".join(text.split())

    def test_well(self) -> None:
        assert status.is_well(told())
        assert status.is_well(told(item()))
        assert not status.is_well(told(item(error="x")))
        lost = {"path": "f", "error": "EFBIG", "when": 0.0, "where": "/c/unsaved/f"}
        assert not status.is_well(told(failed=[lost]))
        assert "f: EFBIG; its bytes are in /c/unsaved/f" in "\n".join(
            status.lines(told(failed=[lost]), 0)
        )
