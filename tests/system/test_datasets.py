"""Mounting by name: one person adds a dataset, others mount it; fstab and mount(8), too."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketfs.cli.options import datasets
from tests.harness.waiting import until
from tests.system.conftest import Place, run
from tests.system.test_command import one_line
from tests.system.test_mount8 import line_of


class Shelf:
    """A user's datasets, and the place they are mounted at."""

    def __init__(self, place: Place, config: Path) -> None:
        self.place = place
        self.directory = config / "bucketfs"
        self.environ = {"XDG_CONFIG_HOME": str(config)}
        #: What a mount needs beside what a dataset says.
        self.local = f"use_cache={config / 'cache'},logfile={config / 'log'},dbglevel=info"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.place.run(*words, **self.environ)

    def add(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``bucketfs dataset add`` with the address of the place's endpoint."""
        url = f"url={self.place.bucket.endpoint.url}"
        return self.run("dataset", "add", "--keys", str(self.place.passwd), *words, "-o", url)

    def mount(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(*words, str(self.place.path), "-o", self.local)

    @property
    def log(self) -> str:
        return (self.directory.parent / "log").read_text()


@pytest.fixture
def shelf(place: Place, tmp_path: Path) -> Shelf:
    config = tmp_path / "config"
    config.mkdir()
    return Shelf(place, config)


def test_add_mount_show_remove(shelf: Shelf) -> None:
    bucket = shelf.place.bucket
    bucket.put("runs/1/file", b"content")
    done = shelf.add("results", f"{bucket.name}:/runs", "-o", "ro,stat_cache_expire=10m")
    assert (done.returncode, done.stderr) == (0, "")
    shown = shelf.run("dataset", "show", "results")
    assert shown.stdout == done.stdout
    assert f"{bucket.name}:/runs" in shown.stdout
    assert "ro, stat_cache_expire=10m" in shown.stdout
    assert bucket.endpoint.secret_key not in shown.stdout
    modes = {path.name: path.stat().st_mode & 0o777 for path in shelf.directory.iterdir()}
    assert modes == {"results.toml": 0o644, "results.passwd": 0o600}
    assert "results" in shelf.run("dataset", "list").stdout

    done = shelf.mount("results")
    assert (done.returncode, done.stderr) == (0, "")
    assert (shelf.place.path / "1/file").read_bytes() == b"content"
    with pytest.raises(OSError, match="Read-only"):
        (shelf.place.path / "new").touch()
    assert "a bucket of this name is written results:" in shelf.log
    status = json.loads(shelf.run("status", "--json", str(shelf.place.path)).stdout)
    assert (status["source"], status["bucket"]) == (f"{bucket.name}:/runs", bucket.name)
    assert shelf.run("umount", str(shelf.place.path)).returncode == 0

    done = shelf.run("dataset", "remove", "results")
    assert (done.returncode, list(shelf.directory.iterdir())) == (0, [])
    assert "there is no dataset" in shelf.run("dataset", "list").stdout
    done = shelf.run("dataset", "remove", "results")
    assert done.returncode == 1
    assert "there is no such dataset" in one_line(done)


def test_a_path_in_it_and_options_that_win(shelf: Shelf) -> None:
    bucket = shelf.place.bucket
    assert shelf.add("results", f"{bucket.name}:/runs", "-o", "ro").returncode == 0
    assert shelf.mount("dataset://results/7/out", "-o", "rw").returncode == 0
    (shelf.place.path / "file").write_bytes(b"mine")
    assert bucket.get("runs/7/out/file") == b"mine"


def test_a_bucket_of_the_same_name(shelf: Shelf) -> None:
    bucket = shelf.place.bucket
    assert shelf.add(bucket.name, "other-bucket").returncode == 0
    done = shelf.mount(bucket.name)
    assert done.returncode == 5
    assert "bucket other-bucket does not exist" in one_line(done)
    options = f"{shelf.place.options},{shelf.local}"
    for name in (f"{bucket.name}:", f"s3://{bucket.name}"):
        done = shelf.run(name, str(shelf.place.path), "-o", options)
        assert (done.returncode, done.stderr) == (0, "")
        assert line_of(shelf.place.path)[0] == name
        assert shelf.run("umount", str(shelf.place.path)).returncode == 0


def test_everything_from_a_json_file(shelf: Shelf) -> None:
    endpoint = shelf.place.bucket.endpoint
    keys = {"accessKeyID": endpoint.access_key, "secretAccessKey": endpoint.secret_key}
    more = {"endpoint": endpoint.url, "bucket": shelf.place.bucket.name}
    shelf.place.passwd.write_text(json.dumps(keys | more))
    shelf.place.passwd.chmod(0o644)  # as a browser has saved it
    done = shelf.run("dataset", "add", "results", "--keys", str(shelf.place.passwd))
    assert (done.returncode, done.stderr) == (0, "")
    assert endpoint.url in done.stdout
    assert shelf.mount("results").returncode == 0
    (shelf.place.path / "file").write_bytes(b"mine")
    assert shelf.place.bucket.get("file") == b"mine"


class TestRefused:
    def test_twice(self, shelf: Shelf) -> None:
        assert shelf.add("results", "first").returncode == 0
        done = shelf.add("results", "second")
        assert done.returncode == 1
        assert "results.toml: is there already; --replace replaces it" in one_line(done)
        assert 'bucket = "first"' in (shelf.directory / "results.toml").read_text()
        assert shelf.add("results", "second", "--replace").returncode == 0
        assert 'bucket = "second"' in (shelf.directory / "results.toml").read_text()

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (("results", "b", "-o", "cache_siz=1"), 2, "did you mean cache_size?"),
            (("results", "b", "-o", "passwd_file=/k"), 2, "exclude each other"),
            (("results", "b/c"), 2, "with a colon: b:/c"),
            (("results",), 2, "names no bucket"),
            (("../results", "b"), 2, "not a name of a dataset"),
            (("results", "b", "c"), 2, "usage: bucketfs dataset"),
        ],
    )
    def test_add(self, shelf: Shelf, words: tuple[str, ...], code: int, said: str) -> None:
        done = shelf.add(*words)
        assert done.returncode == code
        assert said in one_line(done)
        assert not shelf.directory.exists()

    def test_wrong_keys(self, shelf: Shelf) -> None:
        shelf.place.passwd.write_text("hush-hush")
        done = shelf.add("results", "b")
        assert done.returncode == 4
        assert "hush" not in one_line(done)
        assert not shelf.directory.exists()

    def test_written_by_others(self, shelf: Shelf) -> None:
        assert shelf.add("results", "b").returncode == 0
        (shelf.directory / "results.toml").chmod(0o666)
        done = shelf.mount("results")
        assert done.returncode == 2
        assert "run: chmod go-w" in one_line(done)
        done = shelf.run("dataset", "list")
        assert done.returncode == 1
        assert "run: chmod go-w" in done.stderr

    def test_none_of_this_name(self, shelf: Shelf) -> None:
        done = shelf.mount("dataset://results")
        assert done.returncode == 2
        assert "there is no results.toml in" in one_line(done)


def test_recover_knows_the_name(shelf: Shelf) -> None:
    bucket = shelf.place.bucket
    assert shelf.add("results", bucket.name).returncode == 0
    done = shelf.run("recover", "results", "--apply", "-o", shelf.local)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"nothing is left of {bucket.name}" in done.stdout


@pytest.fixture
def of_all(place: Place) -> Iterator[str]:
    """The name of a dataset in /etc, which lives as long as the test."""
    if os.geteuid() != 0:
        pytest.skip("only root writes to /etc")
    is_new, name = not datasets.ETC.exists(), f"bucketfs-test-{os.getpid()}"
    words = ("dataset", "add", "--system", name, place.bucket.name, "--keys", str(place.passwd))
    assert place.run(*words, "-o", f"ro,url={place.bucket.endpoint.url}").returncode == 0
    yield name
    assert place.run("dataset", "remove", "--system", name).returncode == 0
    if is_new:
        datasets.ETC.rmdir()


@pytest.mark.usefixtures("helpers")
class TestMount8:
    def test_fstab(self, place: Place, of_all: str, tmp_path: Path) -> None:
        place.bucket.put("file", b"content")
        options = place.options.partition("use_cache=")[2]
        fstab = tmp_path / "fstab"
        fstab.write_text(f"{of_all} {place.path} bucketfs _netdev,use_cache={options} 0 0\n")
        for _ in range(2):  # the second time it is there already
            done = run(["mount", "-a", "-T", str(fstab)])
            assert (done.returncode, done.stderr) == (0, "")
        assert (place.path / "file").read_bytes() == b"content"
        source, _, _, flags, *_ = line_of(place.path)
        assert source == of_all
        assert "ro" in flags.split(",")  # though mount(8) passes rw
        log = place.passwd.parent / "log"
        assert run(["umount", str(place.path)]).returncode == 0
        until(lambda: "unmounted" in log.read_text(), "the last line of the log")

    def test_what_undoes_ro(self, place: Place, of_all: str) -> None:
        options = f"read_only=0,use_cache={place.passwd.parent / 'cache'}"
        done = run(["mount", "-t", "bucketfs", of_all, str(place.path), "-o", options])
        assert (done.returncode, done.stderr) == (0, "")
        (place.path / "file").write_bytes(b"mine")
        assert run(["umount", str(place.path)]).returncode == 0

    def test_another_users_file(self, place: Place, of_all: str) -> None:
        os.chown(datasets.ETC / f"{of_all}.toml", 12345, 12345)
        done = run(["mount", "-t", "bucketfs", of_all, str(place.path)])
        assert done.returncode == 1
        assert "belongs to another user, who decides what is mounted; run: chown 0" in done.stderr
        assert not place.path.is_mount()
