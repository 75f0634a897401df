"""What a volume's names and options come to, without a driver."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("grpc", reason="the extra bucketfs[csi] is not installed")

from hypothesis import given
from hypothesis import strategies as st

from bucketfs.cli.options import arguments
from bucketfs.csi import volume
from bucketfs.csi.proto import csi_pb2 as csi
from bucketfs.csi.records import Record, Records, started
from bucketfs.csi.refused import Refused
from bucketfs.csi.volume import Defaults, Made

NAMES = st.text(min_size=1, max_size=128)


@given(NAMES, st.sampled_from(["", "my-bucket"]), st.sampled_from(["", "a", "/a/b/"]))
def test_an_id_leads_back_to_its_place(name: str, bucket: str, prefix: str) -> None:
    place = volume.to_make(name, bucket, prefix)
    assert volume.made(place.volume_id) == place
    assert len(place.volume_id.encode()) <= 128
    assert not place.mark.startswith(place.prefix)


@given(st.lists(NAMES, min_size=2, max_size=2, unique=True))
def test_no_two_names_are_one_place(names: list[str]) -> None:
    first, second = (volume.to_make(name, "bucket", "") for name in names)
    assert first != second


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "bucket",
        "bucket/",
        "bucket//a",
        "bucket/../a",
        "bucket/.bucketfs-csi/a",
        "B/a",
        "/a",
    ],
)
def test_ids_of_others(text: str) -> None:
    assert volume.made(text) is None


def test_marks() -> None:
    assert Made("b", "data").mark == ".bucketfs-csi/data"
    assert Made("b", "k8s/a/pvc-1").mark == "k8s/a/.bucketfs-csi/pvc-1"


@given(st.lists(st.text(alphabet='a=\\,"x ', max_size=8).map(lambda text: f"n{text}"), min_size=1))
def test_words_survive_the_command_line(words: list[str]) -> None:
    assert list(arguments.split_list(volume.joined(words))) == words


@pytest.mark.parametrize(
    "word",
    [
        *("passwd_file=/f", "log-file=/f", "cache-dir=/f", "tmpdir=/f", "metrics=1", "profile=a"),
        *(
            "use_sse=c:/f",
            "ca-cert=/f",
            "all_buckets",
            "fuse_fd=unix:/s",
            "bucket=b",
            "use_cache=/f",
        ),
    ],
)
def test_options_that_are_the_administrators(word: str) -> None:
    with pytest.raises(Refused):
        volume.check_words([word])


def published(context: dict[str, str], defaults: Defaults) -> volume.Wanted:
    mode = csi.VolumeCapability.AccessMode
    capability = csi.VolumeCapability(
        mount=csi.VolumeCapability.MountVolume(volume_mount_group="5"),
        access_mode=mode(mode=mode.MULTI_NODE_MULTI_WRITER),
    )
    request = csi.NodePublishVolumeRequest(
        volume_id="v",
        target_path="/t",
        volume_capability=capability,
        volume_context=context,
        secrets={"passwd": "AKIA:SECRET"},
    )
    return volume.wanted(request, defaults)


def test_a_mount_is_the_same_whatever_the_administrator_sets_later() -> None:
    context = {"bucket": "bucket", "open_ttl": "5", "stat_cache_expire": "5"}
    first = published(context, Defaults())
    second = published(dict(reversed(context.items())), Defaults(("url=http://h", "gid=7")))
    assert first.fingerprint == second.fingerprint
    assert published({**context, "open_ttl": "6"}, Defaults()).fingerprint != first.fingerprint
    assert "gid=5" in first.words
    assert "gid=5" not in second.words
    assert "SECRET" not in repr(first)


def test_the_end_of_a_process_does_not_take_the_record_of_the_next(tmp_path: Path) -> None:
    records = Records(tmp_path / "state")
    pid = os.getpid()
    first = Record("/t", "v", "b:/", "x", False, ("ro",), pid=1, started=started(1))
    second = replace(first, pid=pid, started=started(pid))
    records.write(second)
    records.write_keys("/t", "AKIA:SECRET")
    records.forget_process(first)
    assert records.find("/t") == second
    assert records.keys("/t").stat().st_mode & 0o777 == 0o600
    records.forget_process(second)
    assert list((tmp_path / "state").iterdir()) == []


def test_records_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write(Record("/t", "v", "b:/", "x", False, (), pid=os.getpid(), started=1))
    assert records.find("/t") is None
    assert list(records.all()) == []
    records.remove_dead()
    assert list(tmp_path.iterdir()) == []
