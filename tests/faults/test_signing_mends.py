"""A clock that is wrong and keys that are replaced, under a mount that stays."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.harness.http import Request
from tests.harness.mounts import Mounts
from tests.harness.posix import refused
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness

pytestmark = pytest.mark.time_limit(240)

AHEAD = timedelta(hours=3)


def test_an_endpoint_that_lives_in_another_time(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    def too_skewed(request: Request) -> bool:
        signed = datetime.strptime(request.headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
        return abs(signed - datetime.now(UTC) - AHEAD) > timedelta(minutes=15)

    there = format_datetime(datetime.now(UTC) + AHEAD, usegmt=True)
    skewed = {"status": 403, "code": "RequestTimeTooSkewed", "date": there, "when": too_skewed}
    mounted = mount(bucket, url=counted.url)
    (mounted.path / "before").write_bytes(b"before")
    with counted.fault(**skewed) as fault:
        (mounted.path / "f").write_bytes(b"bytes")
        struck = fault.struck
        assert struck >= 1
        (mounted.path / "d").mkdir()
        assert (mounted.path / "before").read_bytes() == b"before"
        assert fault.struck == struck, "it is learned once"
        mounted.remount()
        assert (mounted.path / "f").read_bytes() == b"bytes"
    assert bucket.get("f") == b"bytes"


def test_keys_that_were_replaced(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    def old(request: Request) -> bool:
        return f"Credential={bucket.endpoint.access_key}/" in request.headers["authorization"]

    mounted = mount(bucket, url=counted.url)
    mounted.expected.append("ExpiredToken|InvalidAccessKeyId|refused the keys")
    passwd = mounted.scratch / "passwd"
    written = passwd.read_text()
    for code in ("ExpiredToken", "InvalidAccessKeyId"):
        status = 400 if code == "ExpiredToken" else 403
        with counted.fault(status=status, code=code, when=old):
            with refused(errno.EACCES):
                (mounted.path / code).mkdir()
            passwd.write_text("")  # as an editor leaves it for a moment
            with refused(errno.EACCES):
                (mounted.path / code).mkdir()
            if bucket.endpoint.moto:  # which believes any key
                passwd.write_text("ANOTHER:KEY\n")
                (mounted.path / code).mkdir()
                assert bucket.exists(f"{code}/")
        passwd.write_text(written)
        mounted.remount()
        assert (mounted.path / code).is_dir() or not bucket.endpoint.moto
