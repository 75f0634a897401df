"""contrib/kubernetes: what is in it is what Kubernetes and the driver take."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("grpc", reason="the extra bucketfs[csi] is not installed")
pytest.importorskip("kubernetes_validate", reason="not installed, see make setup")

import kubernetes_validate

from bucketfs.csi import driver, volume
from bucketfs.csi.identity import NAME
from bucketfs.csi.proto import csi_pb2 as csi
from bucketfs.csi.volume import Defaults
from tests.harness.endpoint import REPOSITORY

HERE = REPOSITORY / "contrib/kubernetes"
PLAIN = HERE / "bucketfs-csi.yaml"
EXAMPLES = sorted((HERE / "examples").glob("*.yaml"))
HELM = os.environ.get("BUCKETFS_TEST_HELM") or shutil.which("helm") or ""

#: The oldest and the newest version whose schemas are looked at.
VERSIONS = ("1.25", "1.36")


def documents(path: Path, *kinds: str) -> Iterator[dict[str, Any]]:
    """What a file describes, of these kinds or of all."""
    for each in yaml.safe_load_all(path.read_text()):
        if each and (not kinds or each["kind"] in kinds):
            yield each


def pods(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of workloads, and their pods' specs."""
    for each in documents(path, "DaemonSet", "Deployment"):
        yield each["metadata"]["name"], each["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", [PLAIN, *EXAMPLES], ids=lambda path: path.name)
def test_the_apis_schemas(path: Path, version: str) -> None:
    found = list(documents(path))
    assert found
    for each in found:
        if each["apiVersion"] != "datashim.io/v1alpha1":  # not of Kubernetes itself
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.skipif(not HELM, reason="helm is not installed")
def test_the_plain_manifest_is_what_the_chart_gives() -> None:
    environ = {**os.environ, "HELM": HELM}
    command = [str(HERE / "render")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert PLAIN.read_text() == done.stdout


@pytest.mark.skipif(not HELM, reason="helm is not installed")
def test_other_values_of_the_chart() -> None:
    values = (
        "options={url=https://h\\,region=x}",
        "ownKeys=true",
        "openshift.enabled=true",
        "datashim.enabled=true",
        "storageClass.bucket=shared",
        "storageClass.parameters.open_ttl=5",
    )
    words = ["--kube-version=1.31", *(f"--set={value}" for value in values)]
    command = [HELM, "template", "x", str(HERE / "chart"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rendered = [each for each in yaml.safe_load_all(done.stdout) if each]
    for each in rendered:
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
    classes = {one["metadata"]["name"]: one for one in rendered if one["kind"] == "StorageClass"}
    assert classes["bucketfs"]["parameters"]["open_ttl"] == "5"
    assert classes["csi-s3"]["parameters"]["existing"] == "true"
    bound = {
        each["roleRef"]["name"]: {subject["name"] for subject in each["subjects"]}
        for each in rendered
        if each["kind"] == "RoleBinding"
    }
    assert bound["system:openshift:scc:privileged"] == {"bucketfs-csi-node", "bucketfs-csi-mounter"}
    assert bound["system:openshift:scc:nonroot-v2"] == {"bucketfs-csi-controller"}


def test_the_programs_take_their_words() -> None:
    parser = driver._parser()
    for _, pod in pods(PLAIN):
        for container in pod["containers"]:
            if container["image"].startswith("bucketfs-csi:"):
                parser.parse_args(container["args"])


def test_only_who_mounts_is_privileged() -> None:
    privileged = set()
    for name, pod in pods(PLAIN):
        for container in pod["containers"]:
            rights = container["securityContext"]
            if rights.get("privileged"):
                privileged.add((name, container["name"]))
                continue
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"] == {"drop": ["ALL"]}
    assert privileged == {("bucketfs-csi-node", "driver")}


def test_rights_at_the_api() -> None:
    """No wildcard, secrets by name only, and nothing for the node's pods."""
    for role in documents(PLAIN, "Role", "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            if "secrets" in rule["resources"]:
                assert (role["kind"], rule["verbs"]) == ("Role", ["get"])
                assert rule["resourceNames"]
    bindings = documents(PLAIN, "RoleBinding", "ClusterRoleBinding")
    bound = {subject["name"] for each in bindings for subject in each["subjects"]}
    assert bound == {"bucketfs-csi-controller"}


def test_mounts_outlive_the_driver() -> None:
    strategies = {
        each["metadata"]["name"]: each["spec"].get("updateStrategy", {}).get("type")
        for each in documents(PLAIN, "DaemonSet")
    }
    assert strategies == {"bucketfs-csi-mounter": "OnDelete", "bucketfs-csi-node": None}


def test_the_drivers_name() -> None:
    (told,) = documents(PLAIN, "CSIDriver")
    assert told["metadata"]["name"] == NAME
    for each in documents(PLAIN, "StorageClass"):
        assert each["provisioner"] == NAME
    for _, source in sources():
        assert source["driver"] == NAME


def sources() -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Volumes of the driver's in the examples, with their mount options."""
    for path in EXAMPLES:
        for each in documents(path, "PersistentVolume"):
            yield each["spec"].get("mountOptions", []), each["spec"]["csi"]
        for each in documents(path, "Pod"):
            yield from (([], one["csi"]) for one in each["spec"].get("volumes", ()) if "csi" in one)


def test_the_driver_takes_the_examples_volumes() -> None:
    found = list(sources())
    assert len(found) == 2
    secrets = {
        each["metadata"]["name"]: each["stringData"]
        for path in EXAMPLES
        for each in documents(path, "Secret")
    }
    mode = csi.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER
    for flags, source in found:
        capability = csi.VolumeCapability(
            mount=csi.VolumeCapability.MountVolume(mount_flags=flags),
            access_mode=csi.VolumeCapability.AccessMode(mode=mode),
        )
        request = csi.NodePublishVolumeRequest(
            volume_id="v",
            target_path="/t",
            volume_capability=capability,
            volume_context=source["volumeAttributes"],
            secrets=secrets[source["nodePublishSecretRef"]["name"]],
        )
        wanted = volume.wanted(request, Defaults())
        assert wanted.spec.startswith("images:/")
