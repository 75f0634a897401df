"""``bucketfs demo [DIR]``: a bucket to play with, on a server of its own (moto).

On a terminal the bucket stays mounted until Ctrl-C. Elsewhere a scripted tour works in the mount,
checks each step against the server with boto3, and ends with 1 if any check failed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bucketfs.cli import mounts
from bucketfs.cli.commands import umount
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.process import unmounting

USAGE = """usage: bucketfs demo [DIR]

Starts a small S3 server on this machine, puts a bucket with a few files on it and mounts it at
DIR (left out: a new directory). Ctrl-C unmounts. Needs: pip install 'bucketfs[demo]'"""

BUCKET = "demo"

#: The server wants some key; it does not check it.
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "demo",
    "AWS_SECRET_ACCESS_KEY": "demo-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}

#: The smallest valid PNG: one grey pixel.
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)

#: Seconds.
_DAY = 86400

_FILES = {
    "README.txt": b"Every file here is an object in the bucket 'demo'.\n",
    "data/2025/measurements.csv": b"day,value\n1,3.4\n2,3.9\n",
    "data/2026/measurements.csv": b"day,value\n1,4.1\n2,4.4\n",
    "images/pixel.png": _PIXEL,
    "notes/names with spaces & \u00fcml\u00e4uts.txt": b"Any UTF-8 name works.\n",
}


def run(argv: Sequence[str]) -> int:
    """Run the demo. Raises Failure."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return ExitCode.OK
    if len(argv) > 1 or (argv and argv[0].startswith("-")):
        raise Failure(ExitCode.USAGE, "usage: bucketfs demo [DIR]")
    missing = [name for name in ("moto", "boto3", "flask") if not importlib.util.find_spec(name)]
    if missing:
        raise Failure(
            ExitCode.FAILED,
            f"the demo needs {', '.join(missing)}; run: pip install 'bucketfs[demo]'",
        )
    os.environ.pop("AWS_PROFILE", None)
    os.environ.update(_ENVIRONMENT)
    with _server() as url, _directory(argv[0] if argv else None) as directory:
        client = _client(url)
        _fill(client)
        with _mounted(url, directory):
            if sys.stdin.isatty() and sys.stdout.isatty():
                return _wait(client, directory)
            # Only here: the tour needs boto3, which comes with the extra.
            from bucketfs.cli.demo import tour  # noqa: PLC0415

            return tour.tour(directory, client, BUCKET)


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


@contextlib.contextmanager
def _mounted(url: str, directory: Path) -> Iterator[None]:
    """Mount with the real command, so that the demo shows what a user gets."""
    work = Path(tempfile.mkdtemp(prefix="bucketfs-demo-work-"))
    command = [sys.executable, "-m", "bucketfs", "mount", BUCKET, str(directory)]
    settings = f"url={url},use_cache={work / 'cache'},logfile={work / 'log'},nonempty,open_ttl=0"
    done = subprocess.run([*command, "-o", settings], check=False)
    if done.returncode:
        shutil.rmtree(work, ignore_errors=True)
        raise Failure(ExitCode(done.returncode), "the demo's bucket could not be mounted")
    try:
        yield
    finally:
        unmount(directory)
        log = (work / "log").read_text(errors="replace") if (work / "log").exists() else ""
        if log:
            print(f"\nWhat bucketfs logged:\n{log}", file=sys.stderr)
        shutil.rmtree(work, ignore_errors=True)


def unmount(directory: Path) -> None:
    """Unmount and wait for it, lazily if a program still has files open there."""
    path = unmounting.absolute(str(directory))
    if mounts.mounted_at(path, mounts.current()) is None:
        return
    try:
        umount.run([path])  # the cache and the server go next: the mount must be done with them
    except Failure as failure:
        print(f"bucketfs: {failure.line}", file=sys.stderr)
        unmounting.unmount(path, lazy=True)


def _wait(client: Any, directory: Path) -> int:
    hello = client.generate_presigned_url(
        "get_object", Params={"Bucket": BUCKET, "Key": "hello.txt"}, ExpiresIn=_DAY
    )
    print(
        f"""
The bucket '{BUCKET}' of an S3 server on this machine is mounted at

    {directory}

Try, in another terminal:

    cd {directory}
    ls -lR
    echo hello > hello.txt          # an object 'hello.txt' appears in the bucket
    mv data archive                 # a rename of a directory
    ln -s README.txt link           # symlinks work

The same file over S3, through a URL that is signed for a day:

    curl '{hello}'

Ctrl-C here unmounts it.""",
        flush=True,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    print("\nUnmounting.")
    return ExitCode.OK
