"""What the demo shows: each scene does real work in real mounts, and checks what came of it.

The witness is boto3, which knows nothing of the mounts.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucketfs.cli.commands import top
from bucketfs.cli.demo import tour
from bucketfs.cli.demo.demo_mounts import Mounter, bucketfs
from bucketfs.cli.demo.narrator import Narrator
from bucketfs.cli.demo.network import Network
from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.process import unmounting
from bucketfs.cli.socket import client as daemons

#: A file whose old version is shown: it has to be older than the second in which it is spoilt.
RESULTS = "results.csv"
#: Small files, their bytes, and how many of them are fetched one by one.
_FILES, _SMALL, _SAMPLE = 500, 4096, 50
#: Requests at once that put them there.
_WRITERS = 8
#: Seconds for the end of a process that was killed.
_DEATH = 30.0


@dataclass(frozen=True, slots=True)
class Scenes:
    """The stage.

    Attributes:
        root: Where the bucket is mounted.
        client: A boto3 client of the server.
        connected: What makes such a client for another address.
        network: A relay before the server.
        mounter: Makes other mounts of the bucket.
        tell: Who tells what is done.
    """

    root: Path
    client: Any
    connected: Callable[[str], Any]
    network: Network
    mounter: Mounter
    tell: Narrator

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.mounter.bucket

    def play(self) -> None:
        """Show all scenes. Raises Failure."""
        scenes = (
            self.objects, self.file_work, self.small_files, self.killed, self.two_writers,
            self.yesterday,
        )  # fmt: skip
        for scene in scenes:
            try:
                scene()
            except (OSError, Failure, self.client.exceptions.ClientError) as error:
                self.tell.checked(f"{scene.__name__} comes to its end", good=False, why=str(error))
            self.tell.pause()

    # ---- the scenes ------------------------------------------------------------------------------

    def objects(self) -> None:
        """A file is an object, which curl fetches."""
        self.tell.scene(
            "A file is an object",
            "What a program writes is in the bucket when close() returns, whole and under its own"
            " name.\nEvery tool can fetch it, at an address that is signed for an hour.",
        )
        text = "Written through the mount."
        (self.root / "hello.txt").write_text(f"{text}\n")
        self.tell.ran(f"echo '{text}' > hello.txt")
        url = "".join(self._command("presign", self.root / "hello.txt"))
        tool, fetched = _fetch(url)
        self.tell.ran(f"{tool} 'the address above'", fetched)
        self.tell.beside(
            ("in the mount", sorted(path.name for path in self.root.iterdir())),
            ("in the bucket", self._keys()),
        )
        self.tell.checked(f"{tool} gets what the program wrote", good=fetched == [text])

    def file_work(self) -> None:
        """What programs do with files."""
        self.tell.scene(
            "Programs work unchanged", "Each step is compared with what the bucket has afterwards."
        )
        tour.tour(self.root, self.client, self.bucket, self.tell)

    def small_files(self) -> None:
        """Many small files across a network."""
        trip = f"{self.network.round_trip * 1e3:.0f} ms"
        self.tell.scene(
            f"{_FILES} small files across a network",
            "The server is on this machine, which is no fair picture of a store. For this scene a"
            f" relay\nbefore it holds each request back for {trip}, as a network would. A program"
            " reads the files one\nafter another; bucketfs sees what it does and fetches ahead, as"
            " fast as the small server can.",
        )
        files = {f"photos/{n:03}.jpg": os.urandom(_SMALL) for n in range(_FILES)}
        self._put(files)
        slow = self.connected(self.network.url)
        begun = time.monotonic()
        for key in self.tell.each(f"{_SAMPLE} with a GET each", list(files)[:_SAMPLE]):
            slow.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        single = (time.monotonic() - begun) / _SAMPLE
        found = {}
        with self.mounter.mounted("far", url=self.network.url) as far:
            with self._watched(far) as frame:
                begun = time.monotonic()
                for key in self.tell.each(f"{_FILES} through the mount", list(files)):
                    found[key] = (far / key).read_bytes()
                took = time.monotonic() - begun
            self.tell.frame(frame)
        self.tell.bars(
            (
                (f"one GET after another, {_FILES // _SAMPLE} times the {_SAMPLE} above",
                 single * _FILES),
                (f"all {_FILES} through the mount", took),
            )
        )  # fmt: skip
        self.tell.checked(f"all {_FILES} are read as they were stored", good=found == files)

    def killed(self) -> None:
        """A daemon is killed while a file waits for the bucket."""
        self.tell.scene(
            "No network, and kill -9",
            "This mount has -o writeback: close() returns when the file is safe on the local disk."
            "\nNow the network goes, a file is written, and before the network comes back the"
            " daemon is killed.",
        )
        name, text, options = "field-notes.txt", "Written without a network.", ("writeback",)
        directory = self.mounter.work / "laptop"
        self.mounter.mount("laptop", *options, directory=directory, url=self.network.url)
        try:
            os.listdir(directory)
            with self._watched(directory) as frame:
                self.network.cut()
                begun = time.monotonic()
                (directory / name).write_text(f"{text}\n")
                took = (time.monotonic() - begun) * 1e3
            self.tell.ran(f"echo '{text}' > laptop/{name}   # {took:.0f} ms")
            self.tell.frame(frame)
            self.tell.checked("the bucket does not have it yet", good=name not in self._keys())
            self._kill(directory)
            # 1 says that there is something
            self._command("recover", "--cache", self.mounter.cache("laptop"), codes=(1,))
        finally:
            self.network.mend()
        self.tell.ran("# the network is back")
        with self.mounter.mounted("laptop", *options, url=self.network.url):
            self.tell.ran(f"bucketfs mount {self.bucket} laptop -o writeback,…")
            self._command("flush", directory)
        stored = self._keys()
        self.tell.beside(("in the bucket", [key for key in stored if "/" not in key]))
        self.tell.checked(
            "the file has arrived all the same",
            good=name in stored and self._stored(name) == f"{text}\n".encode(),
        )

    def two_writers(self) -> None:
        """Two machines change one file at the same time."""
        self.tell.scene(
            "Two writers, and both versions kept",
            "Two mounts of this bucket open the same file, and both change it. Uploads are"
            " conditional, so\nthe second to close finds out, and nothing is overwritten unseen.",
        )
        name = "plan.txt"
        (self.root / name).write_text("1. Agree on a plan.\n")
        with self.mounter.mounted("colleague") as theirs:
            here, there = (self.root / name).open("a"), (theirs / name).open("a")
            with here, there:
                there.write("2. Their plan.\n")
                there.close()
                here.write("2. Our plan.\n")
                try:
                    here.close()
                    told = "no error"
                except OSError as error:
                    told = os.strerror(error.errno or 0)
        self.tell.ran(f"echo '2. Our plan.' >> {name}   # close() says", [told])
        self.tell.ran("tail -n 1 …/main.log", self.mounter.logged("main")[-1:])
        versions = {key: self._stored(key).decode() for key in self._keys(name)}
        self.tell.beside(*((key, text.splitlines()) for key, text in versions.items()))
        lines = {line for text in versions.values() for line in text.splitlines()}
        self.tell.checked(
            "theirs and ours are both in the bucket",
            good=len(versions) == 2 and {"2. Their plan.", "2. Our plan."} <= lines,
        )

    def yesterday(self) -> None:
        """An old version of a file."""
        self.tell.scene(
            "Yesterday's version",
            "This bucket keeps versions. A file is spoilt; its old version, and the whole bucket as"
            " it was\nthen, are still there. (In this demo, yesterday was a minute ago.)",
        )
        name = RESULTS
        old = self._stored(name)
        (self.root / name).write_bytes(b"oops\n")
        self.tell.ran(f"echo oops > {name}")
        self._command("versions", self.root / name)
        told = self.client.list_object_versions(Bucket=self.bucket, Prefix=name)["Versions"]
        version = min(told, key=lambda one: one["LastModified"])["VersionId"]
        with self.mounter.mounted("yesterday", f"at={name}@{version}") as past:
            self.tell.ran(f"bucketfs mount {self.bucket} yesterday -o at={name}@{version},…")
            was = (past / name).read_bytes()
            self.tell.ran(f"cat yesterday/{name}", was.decode().splitlines())
        self._command("restore", self.root / name, "--version", version)
        now = (self.root / name).read_bytes()
        self.tell.ran(f"cat {name}", now.decode().splitlines())
        self.tell.checked("the old version is shown, and restored", good=was == now == old)

    # ---- what they are made of -------------------------------------------------------------------

    def _command(self, *words: str | Path, codes: Collection[int] = (0,)) -> list[str]:
        """Run a command, tell it with short paths, and return what it printed. Raises Failure."""
        done = bucketfs(*map(str, words))
        lines = done.stdout.splitlines()
        self.tell.ran(" ".join(("bucketfs", *map(self._short, words))), lines)
        if done.returncode not in codes:
            raise Failure(ExitCode.FAILED, done.stderr.strip())
        return lines

    def _short(self, word: str | Path) -> str:
        if isinstance(word, str):
            return word
        above = self.root if word.is_relative_to(self.root) else self.mounter.work
        return str(word.relative_to(above))

    @contextmanager
    def _watched(self, directory: Path) -> Iterator[list[str]]:
        """Watch a mount meanwhile; yields the frame of ``bucketfs top``, which is there then."""
        frame: list[str] = []
        daemon = [daemons.daemon_at(str(directory))[0]]
        before = top.look(daemon)
        begun = time.monotonic()
        yield frame
        time.sleep(max(0.0, top.PACE - (time.monotonic() - begun)))  # figures are of a second
        frame += top.frame(before, top.look(daemon))

    def _kill(self, directory: Path) -> None:
        """Kill the daemon of a mount with -9, and take away what is left of the mount."""
        with daemons.ask(daemons.daemon_at(str(directory))[0], "hello") as talk:
            pid = talk.pid
        os.kill(pid, signal.SIGKILL)
        daemons.await_exit(pid, _DEATH)
        unmounting.unmount(str(directory), lazy=True)
        self.tell.ran(f"kill -9 {pid}")

    def _put(self, files: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(_WRITERS) as pool:
            put = self.client.put_object
            done = [
                pool.submit(put, Bucket=self.bucket, Key=key, Body=data)
                for key, data in files.items()
            ]
            for one in done:
                one.result()

    def _keys(self, prefix: str = "") -> list[str]:
        page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for entry in page.get("Contents", [])]

    def _stored(self, key: str) -> bytes:
        body: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body


def _fetch(url: str) -> tuple[str, list[str]]:
    """What fetched from an address, curl if there is one, and the lines. Raises OSError."""
    if shutil.which("curl"):
        done = subprocess.run(
            ["curl", "--silent", url], stdout=subprocess.PIPE, text=True, check=False
        )
        return "curl", done.stdout.splitlines()
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - our own server
        text: str = answer.read().decode()
        return "urllib", text.splitlines()
