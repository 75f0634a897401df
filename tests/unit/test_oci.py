"""`contrib/container/oci.py`: an image that names what is in it, the same each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "contrib/container/oci.py"
MOMENT = 1_700_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("bin", "dev", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    (root / "bin/program").write_bytes(b"#!/bin/sh\n")
    (root / "bin/program").chmod(0o755)
    os.link(root / "bin/program", root / "bin/twin")
    (root / "sbin").symlink_to("bin")
    (root / "etc/new").write_bytes(b"x" * 100_000)
    (root / "dev/null").write_bytes(b"")
    return root


def made(root: Path, out: Path) -> bytes:
    words = ["--tag", "1.2", "--arch", "armhf", "--entrypoint", "/bin/program"]
    command = [sys.executable, str(SCRIPT), str(root), str(out), *words]
    subprocess.run(command, env={**os.environ, "SOURCE_DATE_EPOCH": str(MOMENT)}, check=True)
    return out.read_bytes()


class Image:
    """What an archive has, each blob looked at by its descriptor."""

    def __init__(self, data: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            files = {member.name: archive.extractfile(member) for member in archive.getmembers()}
            self.files = {name: file.read() for name, file in files.items() if file}
        assert json.loads(self.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        (self.top,) = json.loads(self.files["index.json"])["manifests"]
        self.manifest = json.loads(self.blob(self.top))
        self.config = json.loads(self.blob(self.manifest["config"]))
        (described,) = self.manifest["layers"]
        self.layer = gzip.decompress(self.blob(described))

    def blob(self, described: dict[str, Any]) -> bytes:
        algorithm, digest = described["digest"].split(":")
        data = self.files[f"blobs/{algorithm}/{digest}"]
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest, described["size"])
        return data


def test_an_image(root: Path, tmp_path: Path) -> None:
    image = Image(made(root, tmp_path / "image.tar"))
    assert image.top["annotations"]["org.opencontainers.image.ref.name"] == "1.2"
    assert (image.config["architecture"], image.config["os"]) == ("arm", "linux")
    assert image.config["config"]["Entrypoint"] == ["/bin/program"]
    digest = hashlib.sha256(image.layer).hexdigest()
    assert image.config["rootfs"]["diff_ids"] == [f"sha256:{digest}"]
    with tarfile.open(fileobj=io.BytesIO(image.layer)) as layer:
        members = {member.name: member for member in layer.getmembers()}
    assert set(members) == {
        "bin",
        "bin/program",
        "bin/twin",
        "dev",
        "etc",
        "etc/new",
        "sbin",
        "tmp",
    }
    assert members["bin/program"].mode == 0o755
    assert members["bin/twin"].islnk()
    assert members["sbin"].linkname == "bin"
    assert members["etc/new"].size == 100_000
    assert all(member.mtime <= MOMENT and not member.uname for member in members.values())


def test_the_same_tree_gives_the_same_image(root: Path, tmp_path: Path) -> None:
    first = made(root, tmp_path / "first.tar")
    os.utime(root / "etc/new")
    assert made(root, tmp_path / "second.tar") == first
