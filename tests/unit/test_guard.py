"""What a failed handler tells the program, and whoever reads the log."""

from __future__ import annotations

import errno
import logging

import pyfuse3
import pytest

from bucketfs.errors import FsError, StoreError
from bucketfs.fuse.calls import Calls
from bucketfs.fuse.guard import guarded


class Handlers:
    def __init__(self, error: Exception) -> None:
        self.calls = Calls()
        self.timeout = 10.0
        self._error = error

    @guarded()
    async def write(self, name: bytes) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "code", "level"),
    [
        (FsError(errno.ENOENT), errno.ENOENT, logging.DEBUG),
        (FsError(errno.ESTALE, "replaced"), errno.ESTALE, logging.INFO),
        (FsError(errno.ENOSPC, "the disk is full"), errno.ENOSPC, logging.WARNING),
        (FsError(errno.EIO, "bytes are lost"), errno.EIO, logging.WARNING),
        (StoreError("AccessDenied", status=403, key="k"), errno.EACCES, logging.ERROR),
        (RuntimeError("a bug"), errno.EIO, logging.ERROR),
    ],
)
async def test_each_failure_is_an_errno_and_a_line(
    error: Exception, code: int, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    handlers = Handlers(error)
    with pytest.raises(pyfuse3.FUSEError) as raised:
        await handlers.write(b"name")
    assert raised.value.errno == code
    (line,) = (record for record in caplog.records if record.name == "bucketfs.fuse.guard")
    assert line.levelno == level
    assert "write" in line.getMessage()
    assert handlers.calls.failures == {f"write {errno.errorcode[code]}": 1}
    caplog.clear()
