"""Make a container image of a directory, without a daemon: an archive in the OCI layout.

The layout is that of the OCI Image Format Specification 1.1 (image-layout.md, manifest.md,
config.md and layer.md); ``podman load``, ``docker load`` and ``skopeo copy oci-archive:`` read it.
The same directory gives the same bytes, if SOURCE_DATE_EPOCH is the same.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

#: Debian's names of architectures and the image format's (Go's), where they differ.
_ARCHITECTURES = {"armhf": "arm", "armel": "arm", "i386": "386", "ppc64el": "ppc64le"}
#: Directories that the one who runs a container fills.
_EMPTY = ("dev", "proc", "run", "sys", "tmp")
_PIECE = 1 << 20
#: Of gzip: the highest takes three times as long for one percent.
_LEVEL = 6
_IMAGE = "application/vnd.oci.image"


class Digesting:
    """A file that knows the digest and the length of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Write and count."""
        self._digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """For gzip."""

    @property
    def digest(self) -> str:
        """As descriptors have it."""
        return f"sha256:{self._digest.hexdigest()}"


def main() -> None:
    """Write the archive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tag", required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--entrypoint", required=True)
    found = parser.parse_args()
    moment = int(os.environ["SOURCE_DATE_EPOCH"])
    with tempfile.TemporaryFile() as layer, tarfile.open(found.out, "w") as archive:
        packed, plain = write_layer(found.root, layer, moment)
        config = {
            "architecture": _ARCHITECTURES.get(found.arch, found.arch),
            "os": "linux",
            "created": datetime.fromtimestamp(moment, UTC).isoformat(),
            "config": {
                "Entrypoint": [found.entrypoint],
                "Cmd": ["--help"],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [plain.digest]},
        }
        layer.seek(0)
        add(archive, blob(packed.digest), layer, packed.size, moment)
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_IMAGE}.manifest.v1+json",
            "config": add_json(archive, f"{_IMAGE}.config.v1+json", config, moment),
            "layers": [described(f"{_IMAGE}.layer.v1.tar+gzip", packed.digest, packed.size)],
        }
        whole = add_json(archive, f"{_IMAGE}.manifest.v1+json", manifest, moment)
        whole["annotations"] = {"org.opencontainers.image.ref.name": found.tag}
        index = {
            "schemaVersion": 2,
            "mediaType": f"{_IMAGE}.index.v1+json",
            "manifests": [whole],
        }
        layout = {"imageLayoutVersion": "1.0.0"}
        for name, value in (("index.json", index), ("oci-layout", layout)):
            data = json.dumps(value).encode()
            add(archive, name, io.BytesIO(data), len(data), moment)


def write_layer(root: Path, to: BinaryIO, moment: int) -> tuple[Digesting, Digesting]:
    """Write a directory as a layer; its digests as it is written, and unpacked."""

    def settled(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if member.name.partition("/")[0] in _EMPTY and "/" in member.name:
            return None
        member.uname = member.gname = ""
        member.mtime = min(int(member.mtime), moment)
        return member

    packed = Digesting(to)
    with gzip.GzipFile("", "wb", _LEVEL, packed, mtime=0) as zipped:  # type: ignore[arg-type]
        plain = Digesting(zipped)  # type: ignore[arg-type]
        with tarfile.open(mode="w|", fileobj=plain, bufsize=_PIECE) as layer:  # type: ignore[arg-type]
            for name in sorted(os.listdir(root)):
                layer.add(root / name, name, filter=settled)
    return packed, plain


def add(archive: tarfile.TarFile, name: str, data: BinaryIO, size: int, moment: int) -> None:
    """Put a file into the archive."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime = size, moment
    archive.addfile(member, data)


def add_json(
    archive: tarfile.TarFile, media: str, value: dict[str, Any], moment: int
) -> dict[str, Any]:
    """Put a document into the archive; its descriptor."""
    data = json.dumps(value).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    add(archive, blob(digest), io.BytesIO(data), len(data), moment)
    return described(media, digest, len(data))


def described(media: str, digest: str, size: int) -> dict[str, Any]:
    """A descriptor."""
    return {"mediaType": media, "digest": digest, "size": size}


def blob(digest: str) -> str:
    """Where the layout has what has this digest."""
    return f"blobs/{digest.replace(':', '/')}"


if __name__ == "__main__":
    main()
