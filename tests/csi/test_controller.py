"""Volumes that are made and deleted, as Kubernetes' provisioner asks for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketfs.csi.proto import csi_pb2 as csi
from tests.harness.csi import Driver, Mode
from tests.harness.mounts import as_user
from tests.harness.witness import Witness

GIB = 1 << 30


def create(
    driver: Driver,
    name: str,
    *,
    size: int = GIB,
    secrets: dict[str, str] | None = None,
    **parameters: str,
) -> Any:
    """CreateVolume; the volume."""
    capability = csi.VolumeCapability(
        mount=csi.VolumeCapability.MountVolume(),
        access_mode=Mode(mode=Mode.MULTI_NODE_MULTI_WRITER),
    )
    request = csi.CreateVolumeRequest(
        name=name,
        volume_capabilities=[capability],
        capacity_range=csi.CapacityRange(required_bytes=size),
        parameters={"csi.storage.k8s.io/pvc/name": "claim", **parameters},
        secrets=driver.secrets if secrets is None else secrets,
    )
    return driver.call("CreateVolume", request).volume


def delete(driver: Driver, volume_id: str) -> None:
    request = csi.DeleteVolumeRequest(volume_id=volume_id, secrets=driver.secrets)
    driver.call("DeleteVolume", request)


@pytest.fixture
def own(driver: Driver) -> Iterator[Any]:
    """A volume in a bucket of its own."""
    made = create(driver, "pvc-own-bucket-1", writeback="1")
    yield made
    delete(driver, made.volume_id)


def test_a_prefix_of_a_bucket(driver: Driver, pods: Path, bucket: Witness) -> None:
    bucket.put("k8s/other/f", b"x")
    made = create(driver, "pvc-1", bucket=bucket.name, prefix="k8s", open_ttl="0")
    assert made.volume_id == f"{bucket.name}/k8s/pvc-1"
    assert made.capacity_bytes == GIB
    driver.publish(pods / "a", made.volume_id, **made.volume_context)
    (pods / "a/f").write_text("x")
    assert bucket.get("k8s/pvc-1/f") == b"x"
    driver.unpublish(pods / "a", made.volume_id)
    for _ in range(2):
        delete(driver, made.volume_id)
        assert bucket.keys() == ["k8s/other/f"]


def test_the_size_that_was_asked_for_is_what_df_shows(
    driver: Driver, pods: Path, bucket: Witness
) -> None:
    made = create(driver, "pvc-1", bucket=bucket.name)
    driver.publish(pods / "a", made.volume_id, **made.volume_context)
    request = csi.NodeGetVolumeStatsRequest(volume_id=made.volume_id, volume_path=str(pods / "a"))
    usage = driver.call("NodeGetVolumeStats", request).usage
    assert [one.total for one in usage if one.unit == csi.VolumeUsage.BYTES] == [GIB]


def test_a_bucket_of_its_own(driver: Driver, pods: Path, own: Any) -> None:
    client = driver.endpoint.client()
    name = own.volume_context["bucket"]
    assert own.volume_context["writeback"] == "1"
    driver.publish(pods / "a", own.volume_id, **own.volume_context)
    (pods / "a/f").write_text("x")
    driver.unpublish(pods / "a", own.volume_id)
    assert client.get_object(Bucket=name, Key="data/f")["Body"].read() == b"x"
    delete(driver, own.volume_id)
    assert name not in [each["Name"] for each in client.list_buckets()["Buckets"]]


def test_a_job_writes_results_and_a_pod_reads_them(
    driver: Driver, pods: Path, bucket: Witness
) -> None:
    """As contrib/kubernetes/examples/results.yaml: users of a group write, on two nodes at once."""
    made = create(driver, "pvc-1", bucket=bucket.name)
    for number in ("0", "1"):
        driver.publish(pods / number, made.volume_id, group="1000", **made.volume_context)
    for number in ("0", "1"):
        path = pods / number / f"{number}.txt"
        as_user(lambda path=path: path.write_text("x"))  # type: ignore[misc]
        driver.unpublish(pods / number, made.volume_id)
    driver.publish(pods / "report", made.volume_id, readonly=True, **made.volume_context)
    assert sorted(os.listdir(pods / "report")) == ["0.txt", "1.txt"]
    assert (pods / "report/1.txt").read_text() == "x"


def test_what_others_put_into_a_bucket_of_its_own_stays(driver: Driver, own: Any) -> None:
    client = driver.endpoint.client()
    name = own.volume_context["bucket"]
    client.put_object(Bucket=name, Key="report", Body=b"x")
    for _ in range(2):  # whoever repeats the call does not hear that the volume is gone
        with pytest.raises(Exception, match="BucketNotEmpty"):
            delete(driver, own.volume_id)
    keys = [each["Key"] for each in client.list_objects_v2(Bucket=name)["Contents"]]
    assert keys == [".bucketfs-csi/data", "report"]
    client.delete_object(Bucket=name, Key="report")
    delete(driver, own.volume_id)
    assert name not in [each["Name"] for each in client.list_buckets()["Buckets"]]


def test_the_same_volume_again(driver: Driver, bucket: Witness, refused: Any) -> None:
    first = create(driver, "pvc-1", bucket=bucket.name)
    assert create(driver, "pvc-1", bucket=bucket.name) == first
    for size, parameters in ((2 * GIB, {}), (GIB, {"open_ttl": "5"})):
        code, _ = refused(create, driver, "pvc-1", size=size, bucket=bucket.name, **parameters)
        assert code == "ALREADY_EXISTS"


def test_what_the_driver_has_not_made_stays(driver: Driver, bucket: Witness) -> None:
    bucket.put("data/f", b"x")
    delete(driver, f"{bucket.name}/data")
    delete(driver, f"{bucket.name}")
    delete(driver, "no-such-bucket/data")
    delete(driver, f"{bucket.name}/../data")
    assert bucket.keys() == ["data/f"]


def test_what_is_there_becomes_no_volume(driver: Driver, bucket: Witness, refused: Any) -> None:
    bucket.put("pvc-1/f", b"x")
    code, line = refused(create, driver, "pvc-1", bucket=bucket.name)
    assert (code, "has objects" in line) == ("ALREADY_EXISTS", True)
    bucket.put("f", b"x")
    code, line = refused(create, driver, bucket.name)
    assert (code, "has objects" in line) == ("ALREADY_EXISTS", True)
    assert bucket.keys() == ["f", "pvc-1/f"]


def test_unfinished_uploads_go_with_a_volume(driver: Driver, bucket: Witness) -> None:
    made = create(driver, "pvc-1", bucket=bucket.name)
    client = bucket.endpoint.client()
    for key in ("pvc-1/f", "another/f"):
        client.create_multipart_upload(Bucket=bucket.name, Key=key)
    delete(driver, made.volume_id)
    left = client.list_multipart_uploads(Bucket=bucket.name)["Uploads"]
    assert [upload["Key"] for upload in left] == ["another/f"]


def test_the_bucket_of_the_secret(driver: Driver, bucket: Witness) -> None:
    made = create(driver, "pvc-1", secrets={**driver.secrets, "bucket": bucket.name})
    assert made.volume_id == f"{bucket.name}/pvc-1"
    assert json.loads(bucket.get(".bucketfs-csi/pvc-1"))["own_bucket"] is False


@pytest.mark.parametrize("read_only", ["true", "false"])
def test_the_secret_of_a_data_set_of_datashims(
    driver: Driver, pods: Path, bucket: Witness, read_only: str
) -> None:
    """What its operator writes into the secret of a claim: a folder that is there already."""
    bucket.put("a/b/f", b"x")
    secrets = {
        **driver.secrets,
        "endpoint": driver.endpoint.url,
        "bucket": bucket.name,
        "folder": "a/b",
        "region": "",
        "readonly": read_only,
        "extract": "false",
        "provision": "false",
        "remove-on-delete": "false",
    }
    made = create(driver, "pvc-1", secrets=secrets, existing="true")
    driver.publish(pods / "a", made.volume_id, secrets=secrets, **made.volume_context)
    assert (pods / "a/f").read_bytes() == b"x"
    assert os.access(pods / "a/f", os.W_OK) == (read_only == "false")
    driver.unpublish(pods / "a", made.volume_id)
    delete(driver, made.volume_id)
    assert bucket.keys() == ["a/b/f"]


@pytest.mark.parametrize(
    ("asked", "code", "line"),
    [
        ({"url": "https://h"}, "INVALID_ARGUMENT", "url: cannot be a parameter of a StorageClass"),
        ({"endpoint": "eu"}, "INVALID_ARGUMENT", "region: cannot be a parameter"),
        ({"logfile": "/f"}, "INVALID_ARGUMENT", "logfile: cannot be set for a volume"),
        ({"open_tll": "1"}, "INVALID_ARGUMENT", "did you mean open_ttl?"),
        ({"bucket": "a/b"}, "INVALID_ARGUMENT", "a prefix is written with a colon"),
        ({"prefix": "x" * 200}, "INVALID_ARGUMENT", "too long"),
        ({"existing": "true"}, "INVALID_ARGUMENT", 'the secret of the claim needs "bucket"'),
        ({"secrets": {}}, "INVALID_ARGUMENT", "provisioner-secret-name"),
        ({"bucket": "nosuchbucket"}, "NOT_FOUND", "bucket nosuchbucket does not exist"),
    ],
)
def test_what_cannot_be_made(
    driver: Driver, bucket: Witness, refused: Any, asked: Any, code: str, line: str
) -> None:
    told = refused(create, driver, "pvc-1", **{"bucket": bucket.name, **asked})
    assert (told[0], line in told[1]) == (code, True), told
    assert bucket.keys() == []
