"""Repositories, branches and commits, and what the gateway does with files of them."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

_COMMIT = re.compile(r"[0-9a-f]{32}")
_BAD_NAME = re.compile(r"[^ -~]|[*?\[\]{}!()@+^]")


class S3Error(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True)
class File:
    """One file of a commit."""

    body: bytes
    etag: str
    modified: float


@dataclass
class Branch:
    """One branch: the commits that were made of it, the newest last.

    Attributes:
        output: A pipeline writes it, and nobody else may.
        readable: False for the output of a pipeline as that pipeline's own gateway shows it.
        writable: False for the inputs there.
    """

    output: bool = False
    readable: bool = True
    writable: bool = True
    commits: dict[str, dict[str, File]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, File]:
        return next(reversed(self.commits.values()), {})


@dataclass(frozen=True)
class Place:
    """What a bucket's name means."""

    name: str
    branch: str
    commit: str


class Gateway:
    """The state, and what requests do to it.

    Attributes:
        major: 1 or 2.
        token: The one who may come in; None: authentication is not active.
        branches: By ``branch.repo``.
        made: What made the commits of users' branches, in order: operation and key.
        requests: How many of each kind there were.
        staged: Commits of the repository that holds unfinished uploads.
    """

    def __init__(self, major: int, token: str | None = None) -> None:
        self.major = major
        self.token = token
        self.branches: dict[str, Branch] = {}
        self.made: list[tuple[str, str]] = []
        self.requests: Counter[str] = Counter()
        self.staged = 0
        self.url = ""
        self.uploads: dict[str, tuple[str, dict[int, File]]] = {}
        self.lock = threading.RLock()
        self._number = 0

    def keys(self, bucket: str) -> list[str]:
        """The files of a bucket."""
        return sorted(self.branches[bucket].files)

    def read(self, bucket: str, key: str) -> bytes:
        return self.branches[bucket].files[key].body

    def file(self, body: bytes) -> File:
        digest = hashlib.blake2b(body, digest_size=32) if self.major > 1 else hashlib.sha256(body)
        return File(body, digest.hexdigest(), time.time())

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Store a file as a user of Pachyderm would."""
        branch = self.branches[bucket]
        branch.commits[self.fresh()] = {**branch.files, key: self.file(body)}

    def fresh(self) -> str:
        """The id of a new commit or upload."""
        self._number += 1
        return hashlib.md5(str(self._number).encode(), usedforsecurity=False).hexdigest()

    def place_in_order(self, key: str) -> str:
        """What keys are listed in the order of: 1.x goes through a tree, name by name."""
        return key.replace("/", "\0") if self.major == 1 else key

    def place(self, bucket: str) -> Place:
        parts = bucket.split(".")
        if self.major > 1:
            commit = parts.pop(0) if _COMMIT.fullmatch(parts[0]) else ""
            if len(parts) == 3 and parts[2] == "default":
                parts.pop()
            if len(parts) not in (1, 2):
                raise S3Error(500, "InternalError", f"invalid bucket name: {bucket!r}")
            branch, repo = parts if len(parts) == 2 else ("master", parts[0])
            return Place(f"{branch}.{repo}", branch, commit)
        branch, repo = bucket.split(".", 1) if len(parts) > 1 else ("master", parts[0])
        if not _COMMIT.fullmatch(branch):
            return Place(f"{branch}.{repo}", branch, "")
        named = [
            n for n, b in self.branches.items() if branch in b.commits and n.endswith(f".{repo}")
        ]
        return Place(named[0] if named else f"{branch}.{repo}", branch, branch)

    def branch(self, place: Place) -> Branch:
        try:
            return self.branches[place.name]
        except KeyError:
            raise S3Error(404, "NoSuchBucket") from None

    def files(self, place: Place) -> dict[str, File]:
        branch = self.branch(place)
        if not place.commit:
            return branch.files
        if place.commit not in branch.commits:
            raise S3Error(404, "NoSuchKey")
        return branch.commits[place.commit]

    def find(self, place: Place, key: str, version: str) -> tuple[File, str]:
        """A file, and the version the answer names."""
        if self.major == 1 and key.endswith("/"):
            raise S3Error(400, "InvalidFilePath", "Invalid file path")
        branch, key = self.branch(place), key.removesuffix("/")
        if not branch.readable:
            raise S3Error(404, "NoSuchKey")
        files, named = self.files(place), place.commit
        if version and self.major > 1:
            named = version  # and that is all: what is there now is answered
        elif version:
            if version not in branch.commits:
                raise S3Error(404, "NoSuchVersion")
            files, named = branch.commits[version], version
        elif self.major == 1:
            named = place.branch
        if key in files:
            return files[key], named
        below = [file for name, file in files.items() if name.startswith(f"{key}/")]
        if not below or self.major > 1:
            raise S3Error(404, "NoSuchKey")
        etag = hashlib.sha256("".join(file.etag for file in below).encode()).hexdigest()
        size = sum(len(file.body) for file in below)
        return File(bytes(size), etag, max(file.modified for file in below)), named

    def commit(self, place: Place, what: str, key: str, file: File | None) -> str:
        """Store or remove a file; the commit's id."""
        branch = self.branch(place)
        if not branch.writable:
            raise S3Error(501, "NotImplemented", "This functionality is not implemented.")
        if branch.output:
            raise S3Error(400, "WriteToOutputBranch", "You cannot write to an output branch")
        if place.commit:
            raise S3Error(500, "InternalError", f"commit {place.commit} has already finished")
        if self.major == 1 and key.endswith("/"):
            raise S3Error(400, "InvalidFilePath", "Invalid file path")
        files, key = dict(branch.files), key.removesuffix("/")
        if file is None:
            files.pop(key, None)
            if self.major == 1:
                files = {k: v for k, v in files.items() if not k.startswith(f"{key}/")}
        else:
            self._check_path(files, key)
            files[key] = file
        fresh = self.fresh()
        branch.commits[fresh] = files
        self.made.append((what, key))
        return fresh

    def _check_path(self, files: dict[str, File], key: str) -> None:
        if _BAD_NAME.search(key):
            raise S3Error(400, "InvalidFilePath", "Invalid file path")
        parents = [key[:at] for at, letter in enumerate(key) if letter == "/"]
        if self.major == 1 and any(parent in files for parent in parents):
            why = "Cannot put to a path that includes an existing, non-directory parent file path"
            raise S3Error(400, "InvalidFilePath", why)
