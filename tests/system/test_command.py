"""The command itself: the background, exit codes, one line for each failure, signals."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from bucketfs.cli import mounts
from tests.harness.endpoint import REPOSITORY
from tests.harness.proxy import proxy
from tests.harness.waiting import until
from tests.system.conftest import Place, daemon_of, hear


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The only line a failure printed."""
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("bucketfs: ")
    return line


def test_returns_when_the_mount_stands(place: Place) -> None:
    place.bucket.put("file", b"content")
    done = place.mount()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place.path / "file").read_bytes() == b"content"
    done = place.run("umount", str(place.path))
    assert (done.returncode, done.stderr) == (0, "")
    assert not place.path.is_mount()


def test_the_daemon_holds_nothing_of_the_shell(place: Place) -> None:
    assert place.mount().returncode == 0
    root = Path("/proc", str(daemon_of(place.path)))
    assert (root / "cwd").readlink() == Path("/")
    assert {(root / "fd" / name).readlink().name for name in "012"} == {"null"}
    assert re.search(r"Max core file size +0 ", (root / "limits").read_text())


class TestAPrefixWithNothingBelow:
    @staticmethod
    def told(place: Place, prefix: str, *options: str) -> tuple[str, str]:
        """What a terminal and the log are told by a mount of a prefix that succeeds."""
        terminal, other = os.openpty()
        log = place.path.parent / "log"
        words = ",".join((place.options, "dbglevel=info", f"logfile={log}", *options))
        source = f"{place.bucket.name}:/{prefix}"
        done = subprocess.run(
            [sys.executable, "-m", "bucketfs", source, str(place.path), "-o", words],
            cwd=REPOSITORY,
            stderr=other,
            check=False,
            timeout=60,
        )
        os.set_blocking(terminal, False)
        try:
            said = os.read(terminal, 4096).decode()
        except BlockingIOError:
            said = ""
        os.close(other)
        os.close(terminal)
        assert done.returncode == 0, said
        assert place.run("umount", str(place.path)).returncode == 0
        return said, log.read_text()

    @pytest.mark.parametrize(("options", "hint"), [("ro", "check the prefix"), ("rw", "the first")])
    def test_is_told(self, place: Place, options: str, hint: str) -> None:
        said, log = self.told(place, "typo", options)
        line = f"there is nothing under typo/ in {place.bucket.name} yet: {hint}"
        assert said.startswith(f"bucketfs: {line}")
        assert said.count("\n") == 1
        assert log.count(line) == 1

    def test_one_that_has_something_is_not(self, place: Place) -> None:
        place.bucket.put("runs/2026/a", b"a")
        said, log = self.told(place, "runs", "ro")
        assert said == ""
        assert "there is nothing" not in log

    def test_nor_is_one_of_a_directory_without_files(self, place: Place) -> None:
        place.bucket.put("new/", b"")
        assert self.told(place, "new")[0] == ""

    def test_a_script_is_not(self, place: Place) -> None:
        """Cron would send it as a mail."""
        done = place.run(f"{place.bucket.name}:/runs", str(place.path), "-o", place.options)
        assert (done.returncode, done.stderr) == (0, "")


class TestEndpoint:
    def test_of_the_environment(self, place: Place) -> None:
        """It is no Amazon: it is addressed and tried out as one that `url` names."""
        url = place.bucket.endpoint.url
        options = place.options.replace(f"url={url},use_path_request_style,", "")
        done = place.run(place.bucket.name, str(place.path), "-o", options, AWS_ENDPOINT_URL=url)
        assert (done.returncode, done.stderr) == (0, "")
        (place.path / "f").write_bytes(b"data")
        assert place.bucket.get("f") == b"data"
        assert f"endpoint    {url}" in place.run("status", str(place.path)).stdout

    def test_of_a_services_section(self, place: Place, tmp_path: Path) -> None:
        url, config = place.bucket.endpoint.url, tmp_path / "config"
        options = place.options.replace(f"url={url},use_path_request_style,", "") + ",profile=work"
        options = options.replace(f"passwd_file={place.passwd},", "")
        keys = f"aws_access_key_id = {place.bucket.endpoint.access_key}\n"
        keys += f"aws_secret_access_key = {place.bucket.endpoint.secret_key}\n"
        text = f"[profile work]\nservices = own\n{keys}[services own]\ns3 =\nendpoint_url = {url}\n"
        words = (place.bucket.name, str(place.path), "-o", options)
        config.write_text(text)
        done = place.run(*words, AWS_CONFIG_FILE=str(config))
        assert done.returncode == 2
        assert "[services own]: indent endpoint_url" in one_line(done)
        assert not place.path.is_mount()
        config.write_text(text.replace("endpoint_url", "  endpoint_url"))
        assert place.run(*words, AWS_CONFIG_FILE=str(config)).returncode == 0
        assert f"endpoint    {url}" in place.run("status", str(place.path)).stdout


def test_a_line_of_rclone(place: Place) -> None:
    """As it stands, but for the remote, whose endpoint and keys bucketfs must be told."""
    remote = f"remote:{place.bucket.name}"
    words = f"{place.path} --daemon --vfs-cache-mode writes --s3-chunk-size=8M --umask 022".split()
    done = place.run(remote, *words, "-o", place.options)
    assert done.returncode == 2
    assert f"rclone: {place.bucket.name}, with its endpoint in -o url=" in one_line(done)
    done = place.run(place.bucket.name, *words, "--s3-secret-access-key=hush", "-o", place.options)
    assert done.returncode == 2
    assert "passwd_file=" in one_line(done)
    assert "hush" not in done.stderr
    assert not place.path.is_mount()
    done = place.run(place.bucket.name, *words, "-o", place.options)
    assert (done.returncode, done.stderr) == (0, "")
    (place.path / "f").write_bytes(b"data")
    assert (place.path / "f").stat().st_mode & 0o777 == 0o755
    assert place.bucket.get("f") == b"data"
    assert "vfs-cache-mode is without effect" in (place.path.parent / "log").read_text()


class TestCertificates:
    """A real server whose certificate an authority of one's own has signed."""

    @pytest.fixture
    def guarded(self, place: Place) -> Iterator[str]:
        """Its address; the authority's certificate is beside the mount point."""
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.cert_pem.write_to_path(place.path.parent / "ca.pem")
        authority.issue_cert("127.0.0.1").configure_cert(context)
        with proxy(place.bucket.endpoint.url, context) as running:
            yield running.url

    @pytest.mark.parametrize("by", ["option", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_it_is_named(self, place: Place, guarded: str, by: str) -> None:
        """By a path that is relative: the daemon has another working directory."""
        path = os.path.relpath(place.path.parent / "ca.pem", REPOSITORY)
        options = f"{place.options},url={guarded}"
        environ = {"AWS_CONFIG_FILE": "/none", "REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": ""}
        if by == "option":
            options += f",ca_bundle={path}"
        else:
            environ[by] = path
        done = place.run(place.bucket.name, str(place.path), "-o", options, **environ)
        assert (done.returncode, done.stderr) == (0, "")
        (place.path / "f").write_bytes(b"data")
        assert place.bucket.get("f") == b"data"

    def test_http_and_https_mixed_up(self, place: Place, guarded: str) -> None:
        words = (place.bucket.name, str(place.path), "-o")
        plain = place.bucket.endpoint.url.replace("http://", "https://")
        done = place.run(*words, f"{place.options},url={plain},retries=1")
        assert done.returncode == 7
        assert "answers without TLS; write http://" in one_line(done)
        guarded = guarded.replace("https://", "http://")
        done = place.run(*words, f"{place.options},url={guarded},retries=1")
        assert done.returncode == 7
        assert "write https:// in -o url=" in one_line(done)

    def test_it_is_not(self, place: Place, guarded: str) -> None:
        environ = {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": ""}
        options = f"{place.options},url={guarded},retries=1"
        done = place.run(place.bucket.name, str(place.path), "-o", options, **environ)
        assert done.returncode == 7
        assert "-o ca_bundle=" in one_line(done)
        assert not place.path.is_mount()

    def test_the_file_is_of_no_use(self, place: Place, guarded: str) -> None:
        done = place.mount(f"url={guarded}", f"ca_bundle={place.passwd}")
        assert done.returncode == 2
        line = f"bucketfs: ca_bundle={place.passwd}: holds no certificate in PEM format"
        assert one_line(done) == line
        assert not place.path.is_mount()


class TestFailures:
    def test_mount_point_missing(self, place: Place) -> None:
        place.path.rmdir()
        done = place.mount()
        assert done.returncode == 3
        assert f"run: mkdir -p {place.path}" in one_line(done)

    def test_mount_point_is_a_file(self, place: Place) -> None:
        place.path.rmdir()
        place.path.write_text("")
        done = place.mount()
        assert done.returncode == 3
        assert "not a directory" in one_line(done)
        place.path.unlink()

    def test_mounted_already(self, place: Place) -> None:
        assert place.mount().returncode == 0
        done = place.mount()
        assert done.returncode == 3
        assert "mounted there already" in one_line(done)

    def test_dead_mount(self, place: Place) -> None:
        assert place.mount().returncode == 0
        os.kill(daemon_of(place.path), signal.SIGKILL)
        until(lambda: not _answers(place.path), "the mount is dead")
        done = place.mount()
        assert done.returncode == 0
        assert "had died; unmounted" in done.stderr
        assert _answers(place.path)
        assert len([m for m in mounts.current() if m.target == str(place.path)]) == 1

    def test_passwd_file(self, place: Place) -> None:
        place.passwd.chmod(0o644)
        done = place.mount()
        assert done.returncode == 4
        assert "run: chmod 600" in one_line(done)

    def test_storage_class(self, place: Place) -> None:
        done = place.mount("storage_class=nope")
        assert done.returncode == 2
        line = one_line(done)
        assert line.startswith(f"bucketfs: storage_class=NOPE: {place.bucket.endpoint.url}: ")
        assert line.endswith("name another with -o storage_class=")
        assert not place.path.is_mount()
        assert not place.bucket.keys()

    def test_bucket(self, place: Place) -> None:
        done = place.run("no-such-bucket", str(place.path), "-o", place.options)
        assert done.returncode == 5
        assert "bucket no-such-bucket does not exist" in one_line(done)

    @pytest.mark.real_endpoint
    @pytest.mark.parametrize("keys", ["AKIAWRONG:SECRETTEST", "{key}:wrong-secret-wrong"])
    def test_keys(self, place: Place, keys: str) -> None:
        place.passwd.write_text(keys.format(key=place.bucket.endpoint.access_key))
        done = place.mount()
        assert done.returncode == 6
        assert "key" in one_line(done)
        assert "wrong-secret" not in done.stderr

    def test_nobody_listens(self, place: Place) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            done = place.mount(f"url={url}", "retries=1")
        assert done.returncode == 7
        assert url in one_line(done)

    def test_unknown_host(self, place: Place) -> None:
        done = place.mount("url=http://no-such-host.invalid", "retries=1")
        assert done.returncode == 7
        assert "no-such-host.invalid" in one_line(done)

    def test_not_tls(self, place: Place) -> None:
        url = place.bucket.endpoint.url.replace("http://", "https://")
        done = place.mount(f"url={url}", "retries=1")
        assert done.returncode == 7
        one_line(done)

    def test_option(self, place: Place) -> None:
        done = place.mount("multipart_size=1")
        assert done.returncode == 2
        assert "multipart_size=1: must be at least 5Mi" in one_line(done)

    def test_umount_of_nothing(self, place: Place) -> None:
        done = place.run("umount", str(place.path))
        assert done.returncode == 3
        assert "no bucket is mounted there" in one_line(done)

    def test_umount_in_use(self, place: Place) -> None:
        place.bucket.put("file", b"content")
        assert place.mount().returncode == 0
        with (place.path / "file").open():
            done = place.run("umount", str(place.path))
            assert done.returncode == 1
            assert "bucketfs umount -l" in one_line(done)
        assert place.run("umount", str(place.path)).returncode == 0


def _answers(path: Path) -> bool:
    try:
        # stat(2) may still be answered from the kernel's cache.
        os.statvfs(path)
    except OSError:
        return False
    return True


class TestForeground:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signals_unmount(self, place: Place, tmp_path: Path, number: signal.Signals) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(tmp_path / "notify"))
            command = [sys.executable, "-m", "bucketfs", place.bucket.name, str(place.path), "-f"]
            process = subprocess.Popen(
                [*command, "-o", place.options],
                cwd=REPOSITORY,
                env=os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")},
            )
            hear(listener, "READY=1")
            assert place.path.is_mount()
            (place.path / "file").write_bytes(b"content")
            process.send_signal(number)
            hear(listener, "STOPPING=1")
            assert process.wait(60) == 0
        assert not place.path.is_mount()
        assert place.bucket.get("file") == b"content"


class TestLog:
    def test_hup_opens_the_file_anew(self, place: Place, tmp_path: Path) -> None:
        assert place.mount().returncode == 0
        log = tmp_path / "log"
        log.rename(tmp_path / "log.1")
        os.kill(daemon_of(place.path), signal.SIGHUP)
        until(log.exists, "a new log file")

    def test_json_and_no_secret(self, place: Place, tmp_path: Path) -> None:
        assert place.mount("log_format=json", "dbglevel=dbg").returncode == 0
        (place.path / "file").write_bytes(b"x")
        assert place.run("umount", str(place.path)).returncode == 0
        text = (tmp_path / "log").read_text()
        assert place.bucket.endpoint.secret_key not in text
        assert {"time", "level", "message"} <= json.loads(text.splitlines()[0]).keys()

    def test_options_without_effect_are_named(self, place: Place, tmp_path: Path) -> None:
        assert place.mount("nomixupload", "curldbg").returncode == 0
        text = (tmp_path / "log").read_text()
        assert "option nomixupload is without effect" in text
        assert "option curldbg is without effect" in text


class TestWrongWords:
    def test_a_web_server_that_knows_no_s3(self, place: Place) -> None:
        handler = http.server.SimpleHTTPRequestHandler
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            url = f"http://127.0.0.1:{server.server_port}"
            done = place.run("bucket", str(place.path), "-o", f"{place.options},url={url}")
            server.shutdown()
            thread.join()
        assert done.returncode == 7
        assert "answers HTTP 404, but not as an S3 server does" in one_line(done)

    def test_the_mount_point_stands_first(self, place: Place) -> None:
        done = place.run(str(place.path), place.bucket.name, "-o", place.options)
        assert done.returncode == 3
        assert f"bucketfs {place.bucket.name} {place.path};" in one_line(done)

    def test_a_command_of_another_program(self, place: Place) -> None:
        done = place.run("unmount", str(place.path))
        assert done.returncode == 2
        assert "did you mean bucketfs umount?" in one_line(done)


def test_help_and_version(place: Place) -> None:
    assert "passwd_file=FILE" in place.run("--help").stdout
    assert place.run("help", "umount").stdout == place.run("umount", "--help").stdout
    assert place.run("-V").stdout.startswith("bucketfs ")
    assert "usage: bucketfs umount" in place.run("umount", "--help").stdout
    assert "usage: bucketfs demo" in place.run("demo", "--help").stdout


class TestDemo:
    def test_without_a_terminal(self, place: Place, tmp_path: Path) -> None:
        (temporary := tmp_path / "tmp").mkdir()
        done = place.run("demo", str(place.path), TMPDIR=str(temporary))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "All checks passed." in done.stdout
        assert "FAILED" not in done.stdout
        assert "\x1b" not in done.stdout
        for scene in ("A file is an object", "small files", "kill -9", "Two writers", "Yesterday"):
            assert re.search(f"^== .*{scene}", done.stdout, re.MULTILINE), scene
        assert re.search("^ +waiting +1 file, 27 B$", done.stdout, re.MULTILINE)
        assert not place.path.is_mount()
        assert list(temporary.iterdir()) == []

    def test_on_a_terminal(self, place: Place) -> None:
        terminal, other = os.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "bucketfs", "demo", str(place.path)],
            cwd=REPOSITORY,
            env={**os.environ, "COLUMNS": "100"},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        said, answered = b"", 0
        while b"Ctrl-C" not in said:
            said += os.read(terminal, 4096)
            if said.count(b"Enter goes on.") > answered:
                answered += 1
                os.write(terminal, b"\n")
        assert b"All checks passed." in said
        assert "\N{FULL BLOCK}".encode() in said
        assert (place.path / "README.txt").is_file()
        url = re.findall(rb"curl '(http.+)'", said)[-1]
        with urllib.request.urlopen(url.decode(), timeout=30) as answer:
            assert answer.read() == b"hello\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        os.close(terminal)
        assert not place.path.is_mount()
