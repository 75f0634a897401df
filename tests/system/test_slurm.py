"""contrib/slurm, run as Slurm runs it: with its environment, before and after a job."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.endpoint import REPOSITORY
from tests.harness.mounts import as_user
from tests.system.conftest import Place, daemon_of

SCRIPTS = REPOSITORY / "contrib" / "slurm"
JOB = "4711"
#: Of the configuration as it is delivered.
DEFAULTS = dict(
    re.findall(r"^([\w ]+)='([^']*)'$", (SCRIPTS / "bucketfs.conf").read_text(), re.MULTILINE)
)


@dataclass
class Node:
    """A compute node.

    Attributes:
        place: The bucket.
        base, cache: Where jobs have their folders, and their caches.
        environ: What Slurm sets, and nothing else.
    """

    place: Place
    base: Path
    cache: Path
    environ: dict[str, str]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """One of the scripts, as Slurm calls it."""
        return subprocess.run(
            [str(SCRIPTS / script)],
            cwd=REPOSITORY,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    @property
    def job(self) -> Path:
        """The folder of the job."""
        return self.base / self.environ["SLURM_JOB_ID"]

    @property
    def job_cache(self) -> Path:
        """The cache of the job's results."""
        return self.cache / "jobs" / self.environ["SLURM_JOB_ID"]

    def published(self) -> list[str]:
        """Keys of results."""
        return [key for key in self.place.bucket.keys("runs/") if not key.endswith("/")]


def configured(place: Place, room: Path, user: pwd.struct_passwd, **given: str) -> Node:
    """A node whose scripts are configured for a bucket that has a data set.

    Args:
        place: The bucket.
        room: For configuration, program and keys; the user may enter it.
        user: Of the job.
        given: Other words of the configuration.
    """
    place.bucket.put_many({f"training/d/{n}": b"%d" % n for n in range(20)})
    passwd = room / "keys"
    shutil.copyfile(place.passwd, passwd)
    passwd.chmod(0o600)
    os.chown(passwd, user.pw_uid, user.pw_gid)
    options = f"url={place.bucket.endpoint.url},use_path_request_style,passwd_file={passwd}"
    program = room / "bin" / "bucketfs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bucketfs "$@"\n')
    program.chmod(0o755)
    text = (SCRIPTS / "bucketfs.conf").read_text()
    name = place.bucket.name
    words = {
        "data": f"{name}:/training",
        "data_options": f"ro,immutable,{options}",
        "results": f"{name}:/runs/{{env:SLURM_JOB_ID}}",
        "results_options": f"publish=unmount,{options}",
        "export PATH": f"{program.parent}:{DEFAULTS['export PATH']}",
        **given,
    }
    for word, value in words.items():
        old = f"\n{word}='{DEFAULTS[word]}'\n"
        assert text.count(old) == 1, old
        text = text.replace(old, f"\n{word}='{value}'\n")
    conf = room / "bucketfs.conf"
    conf.write_text(text)
    environ = {
        "BUCKETFS_SLURM_CONF": str(conf),
        "SLURM_JOB_ID": f"{JOB}-{os.getpid()}",
        "SLURM_JOB_UID": str(user.pw_uid),
        "SLURM_JOB_USER": user.pw_name,
    }
    base, cache = (Path(given.get(word, DEFAULTS[word])) for word in ("base", "cache"))
    return Node(place, base, cache, environ)


@pytest.fixture
def node(place: Place, tmp_path: Path) -> Node:
    """A node with jobs of this user."""
    user = pwd.getpwuid(os.getuid())
    return configured(
        place, tmp_path, user, base=str(tmp_path / "jobs"), cache=str(tmp_path / "caches")
    )


def test_a_job_from_its_prolog_to_its_epilog(node: Node) -> None:
    done = node.run("prolog")
    assert done.returncode == 0, done.stderr
    assert "20 files" in done.stdout, "the data set is here before the job begins"
    told = dict(
        line.removeprefix("export ").split("=", 1)
        for line in node.run("task-prolog").stdout.splitlines()
    )
    data, results = Path(told["BUCKETFS_DATA"]), Path(told["BUCKETFS_RESULTS"])
    assert (data / "d/7").read_bytes() == b"7"
    with pytest.raises(OSError, match="Read-only"):
        (data / "new").touch()
    (results / "out").write_text("result")
    assert node.published() == []
    done = node.run("epilog")
    assert done.returncode == 0, done.stderr
    assert node.published() == [f"runs/{node.job.name}/out"]
    assert node.place.bucket.get(f"runs/{node.job.name}/out") == b"result"
    assert not node.job.exists()
    assert not node.job_cache.exists()


@pytest.mark.needs_root("Slurm's daemon is root, and jobs are others'")
def test_a_job_of_another_user_where_the_configuration_says(place: Place) -> None:
    """Root has mounted something there, too: its directories let nobody in."""
    assert place.mount().returncode == 0
    user = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        room.chmod(0o755)
        node = configured(place, room, user)
        reachable = [*("setpriv", "--reuid", "nobody"), str(room / "bin" / "bucketfs"), "--version"]
        if subprocess.run(reachable, capture_output=True, check=False).returncode:
            pytest.skip("nobody may not run this Python")
        try:
            done = node.run("prolog")
            assert done.returncode == 0, done.stderr
            assert "20 files" in done.stdout
            assert (node.job.stat().st_uid, node.job.stat().st_mode & 0o777) == (user.pw_uid, 0o700)
            out = node.job / "results" / "out"
            as_user(lambda: out.write_text("result"), uid=user.pw_uid, gid=user.pw_gid)
            done = node.run("epilog")
            assert done.returncode == 0, done.stderr
            assert node.place.bucket.get(f"runs/{node.job.name}/out") == b"result"
            assert not node.job.exists()
        finally:
            for name in ("data", "results"):
                subprocess.run(["umount", "-ql", str(node.job / name)], check=False)
            shutil.rmtree(node.job, ignore_errors=True)
            shutil.rmtree(node.job_cache, ignore_errors=True)
            shutil.rmtree(node.cache / f"data-{user.pw_uid}", ignore_errors=True)
            for path in (node.job_cache.parent, node.cache, node.base):
                with suppress(OSError):  # another job's things are there
                    path.rmdir()


def test_a_prolog_that_cannot_mount_leaves_nothing(node: Node) -> None:
    conf = Path(node.environ["BUCKETFS_SLURM_CONF"])
    conf.write_text(conf.read_text().replace("{env:SLURM_JOB_ID}", "{env:NO_SUCH_WORD}"))
    done = node.run("prolog")
    assert done.returncode == 1
    assert "NO_SUCH_WORD is not set" in done.stderr
    assert f"job {node.job.name} is not begun" in done.stderr
    assert not node.job.exists()


def test_an_epilog_whose_results_are_still_here_says_so(node: Node) -> None:
    """The daemon was killed: it had promised to publish."""
    assert node.run("prolog").returncode == 0
    results = node.job / "results"
    (results / "out").write_text("result")
    os.kill(daemon_of(results), signal.SIGKILL)
    done = node.run("epilog")
    assert done.returncode == 1
    assert f"job {node.job.name}: results are on this machine alone" in done.stderr
    assert f"bucketfs recover --cache {node.job_cache}" in done.stderr
    assert "out" in done.stdout
    assert not results.is_mount()
    name = node.place.bucket.name
    options = f"{node.place.options},publish=unmount"
    recovered = node.place.run(
        "recover", name, "--apply", "--cache", str(node.job_cache), "-o", options
    )
    assert recovered.returncode == 0, recovered.stderr
    assert node.published() == [f"runs/{node.job.name}/out"]
    done = node.run("epilog")
    assert done.returncode == 0, done.stderr
    assert not node.job_cache.exists()


def test_an_epilog_after_a_prolog_that_failed(node: Node) -> None:
    done = node.run("epilog")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_the_scripts_are_clean() -> None:
    command = ["shellcheck", "-s", "sh", "-x", "prolog", "epilog", "task-prolog"]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
