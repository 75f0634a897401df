"""contrib/slurm, run as Slurm runs it: with its environment, before and after a job."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.endpoint import REPOSITORY
from tests.system.conftest import Place, daemon_of, run

SCRIPTS = REPOSITORY / "contrib" / "slurm"
JOB = "4711"


@dataclass
class Node:
    """A compute node."""

    place: Place
    base: Path
    environ: dict[str, str]

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """One of the scripts, with what Slurm sets."""
        return run([str(SCRIPTS / script)], **self.environ)

    @property
    def job(self) -> Path:
        """The folder of the job."""
        return self.base / "jobs" / JOB

    @property
    def cache(self) -> Path:
        """The cache of the job's results."""
        return self.base / "cache" / "jobs" / JOB

    def published(self) -> list[str]:
        """Keys of results."""
        return [key for key in self.place.bucket.keys("runs/") if not key.endswith("/")]


@pytest.fixture
def node(place: Place, tmp_path: Path) -> Node:
    """A node with the scripts configured for a bucket that has a data set."""
    place.bucket.put_many({f"training/d/{n}": b"%d" % n for n in range(20)})
    options = ",".join(w for w in place.options.split(",") if not w.startswith("use_cache="))
    name = place.bucket.name
    conf = tmp_path / "bucketfs.conf"
    text = (SCRIPTS / "bucketfs.conf").read_text()
    given = {
        "data='training'": f"data='{name}:/training'",
        "data_options='ro,immutable'": f"data_options='ro,immutable,{options}'",
        "results='lab-results:/runs/{env:SLURM_JOB_ID}'": (
            f"results='{name}:/runs/{{env:SLURM_JOB_ID}}'"
        ),
        "results_options='publish=unmount'": f"results_options='publish=unmount,{options}'",
        "base='/run/bucketfs/jobs'": f"base='{tmp_path / 'jobs'}'",
        "cache='/var/cache/bucketfs/slurm'": f"cache='{tmp_path / 'cache'}'",
    }
    for old, new in given.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    conf.write_text(text)
    program = tmp_path / "bin" / "bucketfs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bucketfs "$@"\n')
    program.chmod(0o755)
    environ = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "BUCKETFS_SLURM_CONF": str(conf),
        "SLURM_JOB_ID": JOB,
        "SLURM_JOB_UID": str(os.getuid()),
        "SLURM_JOB_USER": "root",
    }
    return Node(place, tmp_path, environ)


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
    assert node.published() == [f"runs/{JOB}/out"]
    assert node.place.bucket.get(f"runs/{JOB}/out") == b"result"
    assert not node.job.exists()
    assert not node.cache.exists()


def test_a_prolog_that_cannot_mount_leaves_nothing(node: Node) -> None:
    conf = Path(node.environ["BUCKETFS_SLURM_CONF"])
    conf.write_text(conf.read_text().replace("{env:SLURM_JOB_ID}", "{env:NO_SUCH_WORD}"))
    done = node.run("prolog")
    assert done.returncode == 1
    assert "NO_SUCH_WORD is not set" in done.stderr
    assert f"job {JOB} is not begun" in done.stderr
    assert not node.job.exists()


def test_an_epilog_whose_results_are_still_here_says_so(node: Node) -> None:
    """The daemon was killed: it had promised to publish."""
    assert node.run("prolog").returncode == 0
    results = node.job / "results"
    (results / "out").write_text("result")
    os.kill(daemon_of(results), signal.SIGKILL)
    done = node.run("epilog")
    assert done.returncode == 1
    assert f"job {JOB}: results are on this machine alone" in done.stderr
    assert f"bucketfs recover --cache {node.cache}" in done.stderr
    assert "out" in done.stdout
    assert not results.is_mount()
    name = node.place.bucket.name
    options = f"{node.place.options},publish=unmount"
    recovered = node.place.run(
        "recover", name, "--apply", "--cache", str(node.cache), "-o", options
    )
    assert recovered.returncode == 0, recovered.stderr
    assert node.published() == [f"runs/{JOB}/out"]
    done = node.run("epilog")
    assert done.returncode == 0, done.stderr
    assert not node.cache.exists()


def test_an_epilog_after_a_prolog_that_failed(node: Node) -> None:
    done = node.run("epilog")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_the_scripts_are_clean() -> None:
    command = ["shellcheck", "-s", "sh", "-x", "prolog", "epilog", "task-prolog"]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
