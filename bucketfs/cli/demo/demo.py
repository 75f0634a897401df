"""``bucketfs demo [DIR]``: a bucket to play with, on a server of its own (moto).

It shows some scenes in real mounts, each of them checked against the server with boto3. On a
terminal it does so with pictures, and the bucket stays mounted until Ctrl-C; elsewhere in plain
text. The exit code is 1 if any check failed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bucketfs.cli.demo.demo_mounts import Mounter, bucketfs
from bucketfs.cli.demo.narrator import Narrator
from bucketfs.cli.demo.network import network
from bucketfs.cli.demo.scenes import RESULTS, Scenes
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.units import count

USAGE = """usage: bucketfs demo [DIR]

Starts a small S3 server on this machine, puts a bucket with a few files on it, mounts it at DIR
(left out: a new directory) and shows in two minutes what bucketfs does. Then the bucket stays
mounted until Ctrl-C. If the input or the output is no terminal, it ends then, with 1 if anything
that was shown is not as it should be. Needs: pip install 'bucketfs[demo]'"""

BUCKET = "demo"

#: The server wants some key; it does not check it.
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "demo",
    "AWS_SECRET_ACCESS_KEY": "demo-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    # a proxy of this machine's is not for servers on it
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}

#: The smallest valid PNG: one grey pixel.
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)

#: Seconds a round trip takes on the demo's network.
_ROUND_TRIP = 0.02

_FILES = {
    "README.txt": b"Every file here is an object in the bucket 'demo'.\n",
    "data/2025/measurements.csv": b"day,value\n1,3.4\n2,3.9\n",
    "data/2026/measurements.csv": b"day,value\n1,4.1\n2,4.4\n",
    "images/pixel.png": _PIXEL,
    RESULTS: b"sample,result\nA,0.81\nB,0.79\n",
    "notes/names with spaces & \u00fcml\u00e4uts.txt": b"Any UTF-8 name works.\n",
}


def run(argv: Sequence[str]) -> int:
    """Run the demo. Raises Failure."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return ExitCode.OK
    if len(argv) > 1 or (argv and argv[0].startswith("-")):
        raise Failure(ExitCode.USAGE, "usage: bucketfs demo [DIR]")
    missing = [
        name for name in ("moto", "boto3", "flask", "rich") if not importlib.util.find_spec(name)
    ]
    if missing:
        raise Failure(
            ExitCode.FAILED,
            f"the demo needs {', '.join(missing)}; run: pip install 'bucketfs[demo]'",
        )
    os.environ.pop("AWS_PROFILE", None)
    os.environ.update(_ENVIRONMENT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        _server() as url,
        _directory(argv[0] if argv else None) as root,
        tempfile.TemporaryDirectory(
            prefix="bucketfs-demo-work-", ignore_cleanup_errors=True
        ) as work,
    ):
        _fill(_client(url))
        mounter = Mounter(BUCKET, url, Path(work))
        with mounter.mounted("main", "open_ttl=0", directory=root):
            return _show(root, mounter)


def _show(root: Path, mounter: Mounter) -> int:
    """Play the scenes, and on a terminal wait for Ctrl-C. Raises Failure."""
    is_watched = sys.stdin.isatty() and sys.stdout.isatty()
    tell = _pictures() if is_watched else Narrator()
    with network(mounter.url, _ROUND_TRIP) as between:
        Scenes(root, _client(mounter.url), _client, between, mounter, tell).play()
    code = conclusion(tell, mounter)
    if is_watched and code is ExitCode.OK:
        _wait(root)
    return code


def conclusion(tell: Narrator, mounter: Mounter) -> ExitCode:
    """Say whether all was well, and if not, what the mounts logged."""
    if not tell.failed:
        print("\nAll checks passed.", flush=True)
        return ExitCode.OK
    print(f"\n{count(len(tell.failed), 'check')} failed.")
    for name in mounter.names():
        print("\n".join((f"What the mount '{name}' logged:", *mounter.logged(name))), flush=True)
    return ExitCode.FAILED


def _pictures() -> Narrator:
    # rich is only needed, and only loaded, where there is a terminal
    from bucketfs.cli.demo.pictures import Pictures  # noqa: PLC0415

    return Pictures()


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """A moto server in a process of its own; yields its address."""
    server = subprocess.Popen(
        [sys.executable, "-m", "bucketfs.cli.demo.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        if not url:
            _, errors = server.communicate()
            reason = errors.strip().splitlines()[-1:] or ["no message"]
            raise Failure(ExitCode.FAILED, f"the demo's server did not start: {reason[0]}")
        yield url
    finally:
        server.stdin.close()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _client(url: str) -> Any:
    import boto3  # noqa: PLC0415 - comes with the extra "demo"

    return boto3.client("s3", endpoint_url=url)


def _fill(client: Any) -> None:
    client.create_bucket(Bucket=BUCKET)
    versions = {"Status": "Enabled"}
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration=versions)
    for key, body in _FILES.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body)


@contextlib.contextmanager
def _directory(named: str | None) -> Iterator[Path]:
    """The mount point: the one named, made if missing, or a new one that is removed at the end."""
    if named is not None:
        path = Path(named).absolute()
        if not path.is_dir():
            path.mkdir(parents=True)
        yield path
        return
    path = Path(tempfile.mkdtemp(prefix="bucketfs-demo-"))
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()


def _wait(directory: Path) -> None:
    """Leave the mount to the user until Ctrl-C."""
    hello = directory / "hello.txt"
    hello.write_text("hello\n")
    installed = Path(sys.executable).with_name("bucketfs")
    command = installed if installed.exists() else "bucketfs"
    url = bucketfs("presign", "--expires", "1d", str(hello)).stdout.strip()
    # who is quick may press it while this is being written
    with contextlib.suppress(KeyboardInterrupt):
        print(
            f"""
The bucket '{BUCKET}' of an S3 server on this machine stays mounted at

    {directory}

Try, in another terminal:

    cd {directory}
    ls -lR
    echo hi > new.txt               # an object 'new.txt' appears in the bucket
    mv photos pictures              # a rename of a directory with 500 files
    ln -s README.txt link           # symlinks work

A file over S3, at an address that is signed for a day ({command} presign):

    curl '{url}'

What the mount does, second by second:

    {command} top

Ctrl-C here unmounts it.""",
            flush=True,
        )
        signal.pause()
    print("\nUnmounting.")
