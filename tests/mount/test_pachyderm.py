"""Mounts of repositories of Pachyderm: programs work, and make no commit but for what they do."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.endpoint import Endpoint
from tests.harness.mounts import Mount, Mounts
from tests.harness.pachyderm import Branch, Gateway, pachyderm
from tests.harness.posix import refused
from tests.harness.waiting import until
from tests.harness.witness import Witness

MIB = 1 << 20
TOKEN = "t0ken-of-pachyderm"
BUCKET = "master.data"
LACKS = "keeps no (user metadata|objects whose keys end in a slash)"

Mounted = Callable[..., Mount]


@pytest.fixture(params=[1, 2], ids=["1.x", "2.x"])
def gateway(request: pytest.FixtureRequest, outlives: ExitStack) -> Gateway:
    """One that holds a file, and a branch that a pipeline writes."""
    running = outlives.enter_context(pachyderm(request.param, BUCKET, token=TOKEN))
    running.put(BUCKET, "theirs", b"theirs")
    running.branches["master.out"] = Branch(output=True)
    running.put("master.out", "result", b"result")
    running.put("master.out", "d/result", b"result")
    return running


@pytest.fixture
def mounted(gateway: Gateway, mount: Mounts) -> Iterator[Mounted]:
    def do(
        *options: str,
        bucket: str = BUCKET,
        key: str = TOKEN,
        prefix: str = "",
        start: bool = True,
    ) -> Mount:
        endpoint = Endpoint(gateway.url, key, key, moto=False)
        return mount(Witness(endpoint, bucket, None), *options, prefix=prefix, start=start)

    yield do
    assert TOKEN not in "".join(made.log.read_text() for made in mount.made)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A local directory to copy from."""
    made = tmp_path / "source"
    (made / "s").mkdir(parents=True)
    for name in ("a", "s/b"):
        (made / name).write_bytes(os.urandom(100))
        os.utime(made / name, (1, 2))
        (made / name).chmod(0o640)
    return made


def said(made: Mount, pattern: str) -> str:
    """What the log of a mount says in the pattern's group, "" if it says nothing of it."""
    found = re.search(pattern, made.log.read_text())
    return found[1] if found else ""


def done(gateway: Gateway) -> list[str]:
    return sorted(f"{what} {key}" for what, key in gateway.made)


def run(command: str, *, cwd: Path) -> None:
    subprocess.run(command, shell=True, cwd=cwd, check=True)


def test_as_it_was_in_a_commit(gateway: Gateway, mounted: Mounted) -> None:
    gateway.put(BUCKET, "d/f", b"old")
    commit = next(reversed(gateway.branches[BUCKET].commits))
    gateway.put(BUCKET, "d/f", b"newer")
    gateway.put(BUCKET, "later", b"not yet")
    made = mounted(f"at={commit}")
    found = {str(each.relative_to(made.path)) for each in made.path.rglob("*")}
    assert found == {"theirs", "d", "d/f"}
    assert (made.path / "d/f").read_bytes() == b"old"
    with refused(errno.EROFS):
        (made.path / "new").write_bytes(b"x")
    assert done(gateway) == []


def test_a_commit_that_is_none(gateway: Gateway, mounted: Mounted) -> None:
    commit = "0" * 32
    made = mounted(f"at={commit}", start=False)
    with pytest.raises(AssertionError, match=f"there is no bucket {commit}.{BUCKET} or {commit}"):
        made.start()


def test_a_mount_and_its_readers_make_no_commits(gateway: Gateway, mounted: Mounted) -> None:
    made = mounted()
    assert os.listdir(made.path) == ["theirs"]
    assert (made.path / "theirs").read_bytes() == b"theirs"
    with pytest.raises(FileNotFoundError):
        (made.path / "none").stat()
    made.remount()
    assert gateway.made == []


#: What users type, and the commits that it costs.
COMMANDS = {
    "chmod 600 theirs; touch theirs": "",
    "mkdir -p d/e; rmdir d/e d": "",
    "cp {source}/a new": "PUT new",
    "cp {source}/s/b new": "PUT new",
    "cp -p {source}/a new": "PUT new",
    "echo more >> new": "PUT new",
    "mv new moved": "COPY moved, DELETE new",
    "mv moved theirs": "COPY theirs, DELETE moved",
    "mkdir d; cp {source}/a d; mv d e": "PUT d/a, COPY e/a, DELETE d/a",
    "cp -a {source} c": "PUT c/a, PUT c/s/b",
    "rm -r c": "DELETE c/a, DELETE c/s/b",
    "tar c -C {source} . | tar x": "PUT a, PUT s/b",
    "ln -s theirs link || true": "",
    "rm theirs": "DELETE theirs",
}


def test_commits(gateway: Gateway, mounted: Mounted, source: Path) -> None:
    """A program costs the commits that its own writes are."""
    made = mounted()
    made.expected += [LACKS, "symlink failed with ENOTSUP"]
    for command, commits in COMMANDS.items():
        gateway.made.clear()
        run(command.format(source=source), cwd=made.path)
        wanted = sorted(commits.split(", ")) if commits else []
        until(lambda wanted=wanted: done(gateway) == wanted, f"{command}: {commits}")  # type: ignore[misc]
    made.remount()
    assert done(gateway) == ["DELETE theirs"], "nothing was left to do"


@pytest.mark.parametrize("command", ["chmod 600 theirs", "mkdir d"])
def test_a_first_command_that_stores_nothing(
    gateway: Gateway, mounted: Mounted, command: str
) -> None:
    made = mounted()
    made.expected.append(LACKS)
    run(command, cwd=made.path)
    made.remount()
    assert gateway.made == []


def test_rsync(gateway: Gateway, mounted: Mounted, source: Path) -> None:
    """In place, a file is one commit; without times it goes by sizes or sums."""
    if not shutil.which("rsync"):
        pytest.skip("rsync is not installed")
    made = mounted()
    made.expected.append(LACKS)
    run(f"rsync -a --inplace {source}/ .", cwd=made.path)
    assert len(gateway.made) == 2
    made.remount()
    run(f"rsync -a --inplace --size-only {source}/ .", cwd=made.path)
    run(f"rsync -rc {source}/ .", cwd=made.path)
    assert len(gateway.made) == 2, gateway.made
    (source / "a").write_bytes(b"new")
    run(f"rsync -a --inplace --size-only {source}/ .", cwd=made.path)
    assert gateway.read(BUCKET, "a") == b"new"


def test_a_tree(gateway: Gateway, mounted: Mounted, source: Path) -> None:
    """What is written is there afterwards, for another mount and for pipelines."""
    made = mounted()
    made.expected.append(LACKS)
    shutil.copytree(source, made.path / "c")
    os.mkdir(made.path / "empty")
    (made.path / "c").rename(made.path / "d")
    (made.path / "theirs").rename(made.path / "d/theirs")
    os.mkdir(made.path / "d/s/t")
    assert sorted(os.listdir(made.path)) == ["d", "empty"]
    made.remount()
    assert os.listdir(made.path) == ["d"]
    assert sorted(os.listdir(made.path / "d")) == ["a", "s", "theirs"]
    assert (made.path / "d/s/b").read_bytes() == (source / "s/b").read_bytes()
    assert gateway.keys(BUCKET) == ["d/a", "d/s/b", "d/theirs"]
    shutil.rmtree(made.path / "d")
    assert gateway.keys(BUCKET) == []


def test_a_large_file(gateway: Gateway, mounted: Mounted) -> None:
    made = mounted()
    body = os.urandom(MIB) * 30
    (made.path / "large").write_bytes(body)
    with open(made.path / "large", "ab") as file:
        file.write(b"tail")
    (made.path / "large").rename(made.path / "moved")
    assert gateway.read(BUCKET, "moved") == body + b"tail"
    assert [what for what, _ in gateway.made] == ["COMPLETE", "COMPLETE", "COPY", "DELETE"]
    assert gateway.uploads == {}
    made.remount()
    assert (made.path / "moved").read_bytes() == body + b"tail"


def test_a_pipelines_output_is_read_only(gateway: Gateway, mounted: Mounted) -> None:
    """A save fails at once, is not tried again, and its bytes stay on the local disk."""
    made = mounted(bucket="master.out")
    made.expected += ["WriteToOutputBranch", LACKS]
    assert (made.path / "result").read_bytes() == b"result"
    for name in ("new", "result"):
        with pytest.raises(OSError, match=f"Errno {errno.EROFS}"):
            (made.path / name).write_bytes(b"mine")
        kept = f"{name} cannot be saved: .*its bytes are in (.*)"
        until(lambda kept=kept: said(made, kept), kept)  # type: ignore[misc]
        assert Path(said(made, kept)).read_bytes() == b"mine"
    assert (made.path / "result").read_bytes() == b"result"
    for wrong in (
        (made.path / "result").unlink,
        lambda: (made.path / "result").rename(made.path / "moved"),
        lambda: (made.path / "d").rename(made.path / "e"),
    ):
        with pytest.raises(OSError, match=f"Errno {errno.EROFS}"):
            wrong()
    assert said(made, "(the branch is a pipeline's output.*)")
    gateway.requests.clear()
    made.remount()
    assert sorted(os.listdir(made.path)) == ["d", "result"]
    assert not any(asked.startswith("PUT") for asked in gateway.requests)
    assert gateway.made == []


def test_a_name_that_pachyderm_does_not_take(gateway: Gateway, mounted: Mounted) -> None:
    """Under a name that it takes, it is saved."""
    made = mounted()
    made.expected.append("InvalidFilePath")
    with pytest.raises(OSError, match=f"Errno {errno.EINVAL}"):
        (made.path / "a[1]").write_bytes(b"content")
    (made.path / "a[1]").rename(made.path / "a1")
    until(lambda: gateway.keys(BUCKET) == ["a1", "theirs"], "it is saved")
    assert gateway.read(BUCKET, "a1") == b"content"


def test_a_prefix(gateway: Gateway, mounted: Mounted) -> None:
    made = mounted(prefix="p/q")
    made.expected.append(LACKS)
    (made.path / "a").write_bytes(b"1")
    os.mkdir(made.path / "d")
    made.remount()
    assert os.listdir(made.path) == ["a"]
    assert gateway.made == [("PUT", "p/q/a")]


def test_signatures_of_version_2(gateway: Gateway, mounted: Mounted, source: Path) -> None:
    made = mounted("sigv2")
    made.expected.append(LACKS)
    shutil.copytree(source, made.path / "c", copy_function=shutil.copyfile)
    (made.path / "c").rename(made.path / "d")
    (made.path / "large").write_bytes(bytes(30 * MIB))
    made.remount()
    assert (made.path / "d/a").read_bytes() == (source / "a").read_bytes()
    shutil.rmtree(made.path / "d")
    assert gateway.keys(BUCKET) == ["large", "theirs"]


def test_without_authentication(gateway: Gateway, mounted: Mounted) -> None:
    """Both keys empty: nothing is signed."""
    gateway.token = None
    made = mounted("dbglevel=info", key="")
    (made.path / "a").write_bytes(b"1")
    assert gateway.read(BUCKET, "a") == b"1"
    assert said(made, "(signing nothing: .* has no keys for it)")


def test_a_commit(gateway: Gateway, mounted: Mounted) -> None:
    """Named as a bucket, a commit shows what was there then."""
    (commit,) = gateway.branches[BUCKET].commits
    gateway.put(BUCKET, "theirs", b"newer")
    name = f"{commit}.{BUCKET}" if gateway.major == 2 else f"{commit}.data"
    made = mounted("ro", bucket=name)
    assert (made.path / "theirs").read_bytes() == b"theirs"
    with pytest.raises(OSError, match=f"Errno {errno.EROFS}"):
        (made.path / "theirs").write_bytes(b"mine")
