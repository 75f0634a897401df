"""Objects in an archive (S3 Glacier): shown as they are, not readable before they are restored."""

from __future__ import annotations

import errno
import os

import pytest

from tests.harness.mounts import Mounts
from tests.harness.posix import refused
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness


@pytest.mark.needs("archive")
def test_shown_and_not_readable(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    for number in range(5):
        bucket.client.put_object(
            Bucket=bucket.name, Key=f"d/f{number}", Body=b"cold", StorageClass="GLACIER",
            Metadata={"mode": str(0o100640), "uid": "1234"},
        )  # fmt: skip
    made = mount(bucket, url=counted.url)
    with os.scandir(made.path / "d") as entries:
        found = {entry.name: entry.stat() for entry in entries}
    assert len(found) == 5
    assert {(s.st_mode, s.st_uid, s.st_size) for s in found.values()} == {(0o100640, 1234, 4)}
    made.expected.append("InvalidObjectState.*archived")
    with refused(errno.EACCES):
        (made.path / "d" / "f0").read_bytes()
    assert os.getxattr(made.path / "d" / "f0", "user.s3.storage_class") == b"GLACIER"
