"""Publishing volumes as a kubelet asks for it."""

from __future__ import annotations

import base64
import errno
import json
import os
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from bucketfs.cli import mounts
from bucketfs.csi.proto import csi_pb2 as csi
from tests.harness.csi import Driver, Mode
from tests.harness.posix import refused as refused_with
from tests.harness.waiting import until
from tests.harness.witness import Witness


def served(driver: Driver) -> dict[str, Any]:
    """The records of mounts, by their mount points."""
    found = (driver.scratch / "state").glob("*/mount.json")
    return {record["target"]: record for record in (json.loads(p.read_text()) for p in found)}


def test_a_pod_writes_and_the_bucket_has_it(driver: Driver, pods: Path, bucket: Witness) -> None:
    driver.publish(pods / "a", bucket=bucket.name)
    (pods / "a/d").mkdir()
    (pods / "a/d/f").write_text("x")
    assert bucket.get("d/f") == b"x"
    driver.unpublish(pods / "a")
    assert not (pods / "a").exists()
    assert served(driver) == {}
    driver.unpublish(pods / "a")  # it may be asked for again


def test_a_volume_of_a_prefix(driver: Driver, pods: Path, bucket: Witness) -> None:
    bucket.put("a/b/f", b"x")
    driver.publish(pods / "1", bucket=bucket.name, prefix="/a/b/")
    driver.publish(pods / "2", "vol2", bucket=f"{bucket.name}:/a", prefix="b")
    assert os.listdir(pods / "1") == os.listdir(pods / "2") == ["f"]


def test_a_volume_of_a_pod_alone(driver: Driver, pods: Path, bucket: Witness) -> None:
    """As the kubelet asks for `csi:` in a pod (volumeLifecycleModes, podInfoOnMount)."""
    told = {
        "csi.storage.k8s.io/ephemeral": "true",
        "csi.storage.k8s.io/pod.name": "p",
        "csi.storage.k8s.io/pod.namespace": "n",
        "csi.storage.k8s.io/pod.uid": "u",
        "csi.storage.k8s.io/serviceAccount.name": "default",
    }
    driver.publish(pods / "a", "csi-8c3e", bucket=bucket.name, **told)
    (pods / "a/f").write_text("x")
    driver.unpublish(pods / "a", "csi-8c3e")
    assert bucket.get("f") == b"x"
    assert served(driver) == {}


def test_publishing_twice(driver: Driver, pods: Path, bucket: Witness, refused: Any) -> None:
    for _ in range(2):
        driver.publish(pods / "a", bucket=bucket.name)
    pid = served(driver)[str(pods / "a")]["pid"]
    driver.publish(pods / "a", bucket=bucket.name)
    assert served(driver)[str(pods / "a")]["pid"] == pid
    code, line = refused(driver.publish, pods / "a", bucket=bucket.name, writeback="1")
    assert (code, "with other options" in line) == ("ALREADY_EXISTS", True)
    assert sum(mount.target == str(pods / "a") for mount in mounts.current()) == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"readonly": True},
        {"mode": Mode.MULTI_NODE_READER_ONLY},
        {"mode": Mode.SINGLE_NODE_READER_ONLY},
        {"flags": ("ro",)},
        {"ro": "true"},
    ],
)
def test_read_only(driver: Driver, pods: Path, bucket: Witness, asked: dict[str, Any]) -> None:
    bucket.put("f", b"x")
    driver.publish(pods / "a", bucket=bucket.name, **asked)
    assert (pods / "a/f").read_bytes() == b"x"
    with refused_with(errno.EROFS):
        (pods / "a/g").write_text("x")


def test_many_pods_write_to_one_volume(driver: Driver, pods: Path, bucket: Witness) -> None:
    for name in "ab":
        driver.publish(pods / name, bucket=bucket.name, open_ttl="0")
    for name in "ab":
        (pods / name / f"of-{name}").write_text(name)
    assert bucket.keys() == ["of-a", "of-b"]
    assert (pods / "a/of-b").read_text() == "b"


def test_a_group_of_the_pods(driver: Driver, pods: Path, bucket: Witness) -> None:
    bucket.put("f", b"x")
    driver.publish(pods / "a", bucket=bucket.name, group="4711")
    for path in (pods / "a", pods / "a/f"):
        found = path.stat()
        assert found.st_gid == 4711
        assert found.st_mode & (stat.S_IRGRP | stat.S_IWGRP) == stat.S_IRGRP | stat.S_IWGRP


@pytest.mark.parametrize(
    ("attributes", "line"),
    [
        ({"open_tll": "1"}, "did you mean open_ttl?"),
        ({"cache_size": "1"}, "must be at least 64Mi"),
        ({"passwd_file": "/etc/keys"}, "passwd_file: cannot be set for a volume"),
        ({"logfile": "/etc/cron.d/x"}, "logfile: cannot be set for a volume"),
        ({"log__file": "/etc/cron.d/x"}, "cannot be set for a volume"),
        ({"cache__dir": "/etc"}, "cannot be set for a volume"),
        ({"use_sse": "custom:/etc/shadow", "url": "https://h"}, "set by the driver only"),
        ({"iam_role": "1"}, "not started with --own-keys"),
        ({"prefix": "{env:HOME}"}, "no placeholders"),
        ({"prefix": "../a"}, "cannot stand in a prefix"),
        ({"flags": ("suid",)}, "suid: cannot be set for a volume"),
        ({"flags": ("bucket=another",)}, "with -o bucket="),
        ({"flags": ("fuse_fd=unix:/s",)}, "leave / out"),
        ({"secrets": {}}, "the volume has no keys"),
        ({"secrets": {"passwd": "AKIA"}}, "the volume's secret: Not found"),
        ({"secrets": {"accessKeyID": "AKIA"}}, 'has no "secretAccessKey"'),
        ({"secrets": {"one": "1", "two": "2"}}, "the volume's secret has one, two"),
        ({"bucket": ""}, "no bucket"),
    ],
)
def test_what_makes_no_sense(
    driver: Driver, pods: Path, bucket: Witness, refused: Any, attributes: dict[str, Any], line: str
) -> None:
    code, told = refused(driver.publish, pods / "a", **{"bucket": bucket.name, **attributes})
    assert code == "INVALID_ARGUMENT"
    assert line in told
    assert "\n" not in told
    assert not (pods / "a").exists()


def test_no_such_bucket(driver: Driver, pods: Path, refused: Any) -> None:
    code, line = refused(driver.publish, pods / "a", bucket="nosuchbucket")
    assert code == "NOT_FOUND"
    assert "bucket nosuchbucket does not exist" in line
    assert not (pods / "a").exists()
    assert list((driver.scratch / "state").iterdir()) == []


def forms(access: str, secret: str, bucket: str, url: str) -> dict[str, dict[str, str]]:
    """Keys, in all forms that a secret may have."""
    fields = {"access_key_id": access, "secret_access_key": secret}
    ibm = {"cos_hmac_keys": fields, "apikey": "x", "endpoints": "https://e"}
    datashim = {"accessKeyID": access, "secretAccessKey": secret, "endpoint": url, "bucket": bucket}
    return {
        "lines": {"passwd": f"# ours\n{access}:{secret}\n"},
        "line of a bucket": {"passwd-s3fs": f"other:A:B\n{bucket}:{access}:{secret}\n"},
        "JSON": {"key.json": json.dumps({"s3": fields})},
        "IBM": {"service-credentials": json.dumps(ibm)},
        "Datashim": datashim,
        "environment": {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret},
    }


@pytest.mark.parametrize("form", list(forms("", "", "", "")))
def test_forms_of_secrets(driver: Driver, pods: Path, bucket: Witness, form: str) -> None:
    bucket.put("f", b"x")
    endpoint = driver.endpoint
    secrets = forms(endpoint.access_key, endpoint.secret_key, bucket.name, endpoint.url)[form]
    named = {} if form == "Datashim" else {"bucket": bucket.name}
    driver.publish(pods / "a", secrets=secrets, **named)
    assert (pods / "a/f").read_bytes() == b"x"


def test_secrets_are_nowhere_but_in_a_private_file(
    driver: Driver, pods: Path, bucket: Witness, refused: Any
) -> None:
    key = base64.b32encode(os.urandom(20)).decode()
    secrets = {"accessKeyID": driver.endpoint.access_key, "secretAccessKey": key}
    if os.environ.get("BUCKETFS_TEST_URL"):
        pytest.skip("a key that this server does not know; moto does not look at it")
    driver.publish(pods / "a", bucket=bucket.name, secrets=secrets)
    refused(driver.publish, pods / "b", bucket=bucket.name, secrets=secrets, nonsense="1")
    holders = [
        path
        for path in driver.scratch.rglob("*")
        if not path.is_relative_to(pods) and path.is_file() and key.encode() in path.read_bytes()
    ]
    assert [path.name for path in holders] == ["passwd"]
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600
    assert stat.S_IMODE((driver.scratch / "state").stat().st_mode) == 0o700
    process = Path(f"/proc/{served(driver)[str(pods / 'a')]['pid']}")
    assert key.encode() not in process.joinpath("cmdline").read_bytes()
    assert key.encode() not in process.joinpath("environ").read_bytes()
    driver.unpublish(pods / "a")
    assert not holders[0].exists()


def test_secrets_that_are_renewed(driver: Driver, pods: Path, bucket: Witness) -> None:
    driver.publish(pods / "a", bucket=bucket.name)
    driver.publish(pods / "a", bucket=bucket.name, secrets={"passwd": "NEWKEY:NEWSECRET"})
    (path,) = (driver.scratch / "state").glob("*/passwd")
    assert path.read_text() == "NEWKEY:NEWSECRET"


def test_a_new_driver_ends_no_mount(driver: Driver, pods: Path, bucket: Witness) -> None:
    driver.publish(pods / "a", bucket=bucket.name)
    with (pods / "a/f").open("w") as file:
        file.write("before, ")
        assert driver.node.stop() == 0
        file.write("meanwhile, ")
        file.flush()
        driver.node.start()
        driver.publish(pods / "a", bucket=bucket.name)
        file.write("after")
    assert bucket.get("f") == b"before, meanwhile, after"
    driver.unpublish(pods / "a")
    assert served(driver) == {}


def test_a_new_mounter_finds_the_mounts_of_the_one_before(
    driver: Driver, pods: Path, bucket: Witness
) -> None:
    driver.publish(pods / "a", bucket=bucket.name)
    driver.mounter.stop(signal.SIGKILL)
    driver.mounter.start()
    (pods / "a/f").write_text("x")
    driver.publish(pods / "a", bucket=bucket.name)
    driver.unpublish(pods / "a")
    assert bucket.get("f") == b"x"
    until(lambda: served(driver) == {}, "the record's end")


def test_without_a_mounter(driver: Driver, pods: Path, bucket: Witness, refused: Any) -> None:
    driver.mounter.stop()
    code, line = refused(driver.publish, pods / "a", bucket=bucket.name)
    driver.mounter.start()
    assert code == "UNAVAILABLE"
    assert "the mounter does not answer" in line
    assert not any(mount.target == str(pods / "a") for mount in mounts.current())


def health(driver: Driver, target: Path) -> Any:
    request = csi.NodeGetVolumeHealthRequest(volume_id="vol", volume_publish_path=str(target))
    return driver.call("NodeGetVolumeHealth", request).volume_health.health_statuses


def stats(driver: Driver, target: Path) -> dict[int, Any]:
    request = csi.NodeGetVolumeStatsRequest(volume_id="vol", volume_path=str(target))
    return {one.unit: one for one in driver.call("NodeGetVolumeStats", request).usage}


def test_a_mount_whose_process_died_is_told_and_made_anew(
    driver: Driver, pods: Path, bucket: Witness, refused: Any
) -> None:
    driver.publish(pods / "a", bucket=bucket.name)
    assert list(health(driver, pods / "a")) == []
    os.kill(served(driver)[str(pods / "a")]["pid"], signal.SIGKILL)
    until(lambda: served(driver) == {}, "the mounter notices")
    (told,) = health(driver, pods / "a")
    assert (told.status, told.reason) == (csi.INACCESSIBLE, "DaemonDied")
    assert refused(stats, driver, pods / "a")[0] == "NOT_FOUND"
    driver.publish(pods / "a", bucket=bucket.name)
    (pods / "a/f").write_text("x")
    assert bucket.get("f") == b"x"


def test_bytes_and_objects_of_a_prefix(driver: Driver, pods: Path, bucket: Witness) -> None:
    bucket.put("a/f", bytes(1000))
    bucket.put("a/d/g", bytes(234))
    bucket.put("b", bytes(5000))
    driver.publish(pods / "a", bucket=bucket.name, prefix="a", bucket_size="1000000")
    until(lambda: stats(driver, pods / "a")[csi.VolumeUsage.INODES].used, "the count")
    found = stats(driver, pods / "a")
    space = found[csi.VolumeUsage.BYTES]
    assert space.used == 1234
    assert space.available == space.total - 1234
    assert found[csi.VolumeUsage.INODES].used == 2


def test_unpublishing_waits_for_the_bucket(driver: Driver, pods: Path, bucket: Witness) -> None:
    driver.publish(pods / "a", bucket=bucket.name, writeback="1")
    for number in range(20):
        (pods / f"a/{number}").write_bytes(bytes(100_000))
    driver.unpublish(pods / "a")
    assert len(bucket.keys()) == 20


def test_single_writers_that_come_at_the_same_time(
    driver: Driver, pods: Path, bucket: Witness
) -> None:
    def publish(name: str) -> str:
        mode = Mode.SINGLE_NODE_SINGLE_WRITER
        try:
            driver.publish(pods / name, bucket=bucket.name, mode=mode)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    with ThreadPoolExecutor() as pool:
        codes = list(pool.map(publish, "abc"))
    assert codes.count("OK") == 1
    assert set(codes) <= {"OK", "ABORTED", "FAILED_PRECONDITION"}


def test_a_single_writer(driver: Driver, pods: Path, bucket: Witness, refused: Any) -> None:
    driver.publish(pods / "a", bucket=bucket.name)
    single = Mode.SINGLE_NODE_SINGLE_WRITER
    code, line = refused(driver.publish, pods / "b", bucket=bucket.name, mode=single)
    assert code == "FAILED_PRECONDITION"
    assert f"is published at {pods / 'a'}" in line
    driver.publish(pods / "b", "another", bucket=bucket.name, mode=single)


def test_no_block_devices(driver: Driver, pods: Path, refused: Any) -> None:
    capability = csi.VolumeCapability(
        block=csi.VolumeCapability.BlockVolume(), access_mode=Mode(mode=Mode.SINGLE_NODE_WRITER)
    )
    request = csi.NodePublishVolumeRequest(
        volume_id="v", target_path=str(pods / "a"), volume_capability=capability
    )
    code, line = refused(driver.call, "NodePublishVolume", request)
    assert (code, "volumeMode: Filesystem" in line) == ("INVALID_ARGUMENT", True)


def test_who_serves_has_no_rights(driver: Driver, pods: Path, bucket: Witness) -> None:
    driver.publish(pods / "a", bucket=bucket.name)
    status = Path(f"/proc/{served(driver)[str(pods / 'a')]['pid']}/status").read_text()
    assert "\nCapEff:\t0000000000000000\n" in status


def test_what_pods_may_do(driver: Driver, pods: Path, bucket: Witness) -> None:
    """The driver tells the kernel what pods may do: neither devices nor set-uid programs."""
    driver.publish(pods / "a", bucket=bucket.name, flags=("noexec",))
    (mount,) = (one for one in mounts.current() if one.target == str(pods / "a"))
    assert {"nosuid", "nodev", "noexec"} <= set(mount.flags)
    assert mount.source == f"{bucket.name}:/"


def test_the_end_of_a_pod_of_mounts_saves_them(driver: Driver, pods: Path, bucket: Witness) -> None:
    driver.mounter.stop()
    driver.mounter.also("--end-mounts")
    driver.mounter.start()
    driver.publish(pods / "a", bucket=bucket.name, writeback="1")
    (pods / "a/f").write_text("x")
    assert driver.mounter.stop() == 0
    assert bucket.get("f") == b"x"
    driver.mounter.start()
