"""The container image, run without a container engine: its tree by bubblewrap, else by chroot(8).

`make image` makes it and runs this.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.system.conftest import Place

IMAGE = os.environ.get("BUCKETFS_TEST_IMAGE", "")

pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="there is no image; make image makes one and runs this"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a tree its owners and mount"),
]


class Container:
    """A tree of the image, with the network of this machine.

    Attributes:
        root: The tree.
        entry: What the image runs.
        environment: What it sets; PATH finds the tools of this machine, too.
    """

    def __init__(self, archive: str, root: Path) -> None:
        self.root = root
        with tarfile.open(archive) as image:

            def read(descriptor: dict[str, str]) -> dict[str, object]:
                file = image.extractfile(f"blobs/{descriptor['digest'].replace(':', '/')}")
                assert file is not None
                return json.load(file)  # type: ignore[no-any-return]

            index = image.extractfile("index.json")
            assert index is not None
            manifest: dict = read(json.load(index)["manifests"][0])
            config: dict = read(manifest["config"])
            self.entry: list[str] = config["config"]["Entrypoint"]
            self.environment = dict(line.split("=", 1) for line in config["config"]["Env"])
            for described in manifest["layers"]:
                layer = image.extractfile(f"blobs/{described['digest'].replace(':', '/')}")
                with tarfile.open(fileobj=layer, mode="r|gz") as members:
                    members.extractall(root, filter="fully_trusted")

    def run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        if shutil.which("bwrap"):
            inside = ["--bind", str(self.root), "/", "--dev", "/dev", "--proc", "/proc"]
            inside += ["--dev-bind", "/dev/fuse", "/dev/fuse", "--tmpfs", "/run", "--tmpfs", "/tmp"]
            command = ["bwrap", *inside, "--unshare-pid", "--cap-add", "CAP_SYS_ADMIN", *words]
        else:
            script = "mount --rbind /dev dev; mount -t proc proc proc; exec chroot . "
            command = ["unshare", "--mount", "--pid", "--fork", "sh", "-ec"]
            command += [f"cd {shlex.quote(str(self.root))}; {script}{shlex.join(words)}"]
        return subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Container:
    return Container(IMAGE, tmp_path_factory.mktemp("image"))


def test_its_command(container: Container) -> None:
    done = container.run([*container.entry, "--version"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("bucketfs ")


def test_a_mount(container: Container, place: Place) -> None:
    place.bucket.put("there", b"from the bucket")
    (container.root / "keys").touch(0o600)
    (container.root / "keys").write_text(place.passwd.read_text())
    options = f"url={place.bucket.endpoint.url},use_path_request_style,passwd_file=/keys"
    mount = shlex.join([*container.entry, place.bucket.name, "/mnt", "-o", options])
    script = f"""
    {mount}
    cat /mnt/there
    echo from the container > /mnt/here
    {shlex.join(container.entry)} umount /mnt
    """
    done = container.run(["sh", "-ec", script])
    assert (done.returncode, done.stdout, done.stderr) == (0, "from the bucket", "")
    assert place.bucket.get("here") == b"from the container\n"
