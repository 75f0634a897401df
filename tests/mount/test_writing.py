"""Writing: every way a program changes a file, and the object it leaves."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Folder
from tests.harness.minio import minio
from tests.harness.mounts import Mounts, wait_for_key
from tests.harness.posix import Mapping, refused
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

MIB = 1 << 20


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def same(folder: Folder, bucket: Witness, name: str, body: bytes) -> bool:
    """Whether the file, and its object where there is one, hold `body`."""
    if not folder.local and bucket.get(folder.prefix + name) != body:
        return False
    return (folder / name).read_bytes() == body and (folder / name).stat().st_size == len(body)


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000, 3 * MIB + 1])
def test_new_files(folder: Folder, module_bucket: Witness, size: int) -> None:
    body = noise(size)
    (folder / "f").write_bytes(body)
    assert same(folder, module_bucket, "f", body)


def test_overwriting(folder: Folder, module_bucket: Witness) -> None:
    for body in (b"first", b"a longer second", b"3", b"", b"again"):
        (folder / "f").write_bytes(body)
        assert same(folder, module_bucket, "f", body)


def test_creating_by_open_alone(folder: Folder, module_bucket: Witness) -> None:
    os.close(os.open(folder / "f", os.O_CREAT | os.O_RDONLY, 0o644))
    assert same(folder, module_bucket, "f", b"")


def test_exclusive_creation(folder: Folder, module_bucket: Witness) -> None:
    fd = os.open(folder / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, b"x")
    with refused(errno.EEXIST):
        os.open(folder / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(fd)
    with refused(errno.EEXIST):
        os.open(folder / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert same(folder, module_bucket, "f", b"x")


def test_truncation_at_open(folder: Folder, module_bucket: Witness) -> None:
    (folder / "f").write_bytes(b"old content")
    fd = os.open(folder / "f", os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(fd).st_size == 0
    if not folder.local:
        assert module_bucket.get(folder.prefix + "f") == b"old content"
    os.write(fd, b"new")
    os.close(fd)
    assert same(folder, module_bucket, "f", b"new")
    os.close(os.open(folder / "f", os.O_WRONLY | os.O_TRUNC))
    assert same(folder, module_bucket, "f", b"")


def test_appending(folder: Folder, module_bucket: Witness) -> None:
    body = b""
    for number in range(5):
        with open(folder / "f", "ab") as file:
            file.write(b"line %d\n" % number)
        body += b"line %d\n" % number
    assert same(folder, module_bucket, "f", body)


def test_appending_from_two_handles(folder: Folder, module_bucket: Witness) -> None:
    with open(folder / "f", "ab", 0) as first, open(folder / "f", "ab", 0) as second:
        first.write(b"1")
        second.write(b"22")
        first.write(b"333")
        second.write(b"4444")
    assert same(folder, module_bucket, "f", b"1223334444")


def test_writing_from_two_handles(folder: Folder, module_bucket: Witness) -> None:
    """Both see each other's bytes at once; closing one does not undo the other."""
    (folder / "f").write_bytes(b"..........")
    with open(folder / "f", "r+b", 0) as first:
        with open(folder / "f", "r+b", 0) as second:
            first.write(b"AA")
            second.seek(8)
            second.write(b"BB")
            second.seek(0)
            assert second.read() == b"AA......BB"
        first.seek(4)
        first.write(b"CC")
        with open(folder / "f", "rb") as reader:
            assert reader.read() == b"AA..CC..BB"
    assert same(folder, module_bucket, "f", b"AA..CC..BB")


def test_random_writes(folder: Folder, module_bucket: Witness) -> None:
    rng = random.Random(3)
    model = bytearray(noise(400_000))
    (folder / "f").write_bytes(model)
    with open(folder / "f", "r+b", 0) as file:
        for number in range(40):
            start = rng.randrange(len(model))
            data = rng.randbytes(rng.choice([1, 10, 5000, 20_000]))
            file.seek(start)
            file.write(data)
            model[start : start + len(data)] = data
            if number % 10 == 9:
                file.seek(max(0, start - 100))
                assert file.read(5000) == model[max(0, start - 100) :][:5000]
    assert same(folder, module_bucket, "f", bytes(model))


def test_holes_are_zeros(folder: Folder, module_bucket: Witness) -> None:
    with open(folder / "f", "wb", 0) as file:
        file.seek(100_000)
        file.write(b"end")
    assert same(folder, module_bucket, "f", bytes(100_000) + b"end")
    with open(folder / "f", "r+b", 0) as file:
        file.seek(200_000)
        file.write(b"x")
    assert same(folder, module_bucket, "f", bytes(100_000) + b"end" + bytes(99_997) + b"x")


@pytest.mark.parametrize("by", ["path", "descriptor"])
def test_truncation(folder: Folder, module_bucket: Witness, by: str) -> None:
    body = noise(50_000)
    (folder / "f").write_bytes(body)

    def resize(size: int) -> None:
        if by == "path":
            os.truncate(folder / "f", size)
        else:
            with open(folder / "f", "r+b", 0) as file:
                os.ftruncate(file.fileno(), size)

    for size, wanted in (
        (20_000, body[:20_000]),
        (30_000, body[:20_000] + bytes(10_000)),
        (30_000, body[:20_000] + bytes(10_000)),
        (5, body[:5]),
        (0, b""),
        (10, bytes(10)),
    ):
        resize(size)
        assert same(folder, module_bucket, "f", wanted)


def test_truncating_a_dirty_file(folder: Folder, module_bucket: Witness) -> None:
    with open(folder / "f", "w+b", 0) as file:
        file.write(b"0123456789")
        os.ftruncate(file.fileno(), 5)
        assert os.fstat(file.fileno()).st_size == 5
        os.truncate(folder / "f", 8)
        file.seek(0)
        assert file.read() == b"01234\0\0\0"
        file.seek(7)
        file.write(b"XYZ")
    assert same(folder, module_bucket, "f", b"01234\0\0XYZ")


def test_truncated_bytes_do_not_come_back(folder: Folder, module_bucket: Witness) -> None:
    (folder / "f").write_bytes(b"secret" * 2000)
    with open(folder / "f", "r+b", 0) as file:
        os.ftruncate(file.fileno(), 3)
        file.seek(10_000)
        file.write(b"!")
    assert same(folder, module_bucket, "f", b"sec" + bytes(9997) + b"!")


def test_fsync_makes_it_visible(here: Folder, module_bucket: Witness) -> None:
    with open(here / "f", "wb", 0) as file:
        file.write(b"one")
        os.fsync(file.fileno())
        assert module_bucket.get(here.prefix + "f") == b"one"
        file.write(b" two")
        assert module_bucket.get(here.prefix + "f") == b"one"
        os.fdatasync(file.fileno())
        assert module_bucket.get(here.prefix + "f") == b"one two"
        before = module_bucket.head(here.prefix + "f")
    assert before == before
    assert module_bucket.get(here.prefix + "f") == b"one two"


def test_duplicated_descriptors(folder: Folder, module_bucket: Witness) -> None:
    fd = os.open(folder / "f", os.O_CREAT | os.O_WRONLY, 0o644)
    other = os.dup(fd)
    os.write(fd, b"one ")
    os.close(fd)
    os.write(other, b"two")
    os.close(other)
    assert same(folder, module_bucket, "f", b"one two")


def test_a_child_writes_on(folder: Folder, module_bucket: Witness) -> None:
    with open(folder / "f", "wb", 0) as file:
        file.write(b"parent ")
        subprocess.check_call(["echo", "-n", "child "], stdout=file)
        file.write(b"parent")
    assert same(folder, module_bucket, "f", b"parent child parent")


def test_shell_redirections(folder: Folder, module_bucket: Witness) -> None:
    script = (
        "echo one > f; echo two >> f; { echo three; echo four; } >> f; cat f > g; sed -i s/o/0/ g"
    )
    subprocess.check_call(["/bin/sh", "-c", script], cwd=folder.path)
    assert same(folder, module_bucket, "f", b"one\ntwo\nthree\nfour\n")
    assert same(folder, module_bucket, "g", b"0ne\ntw0\nthree\nf0ur\n")
    assert sorted(os.listdir(folder.path)) == ["f", "g"]


def test_mapped_writes(folder: Folder, module_bucket: Witness) -> None:
    (folder / "f").write_bytes(b"." * 10_000)
    program = (
        "import mmap,sys\n"
        "with open(sys.argv[1],'r+b') as f, mmap.mmap(f.fileno(), 10_000) as m:\n"
        "    m[0:5]=b'first'; m[9_995:]=b'final'; m.flush(); m[5_000:5_003]=b'mid'\n"
    )
    subprocess.check_call([sys.executable, "-c", program, folder / "f"])
    body = bytearray(b"." * 10_000)
    body[:5], body[9_995:], body[5_000:5_003] = b"first", b"final", b"mid"
    until(lambda: same(folder, module_bucket, "f", bytes(body)), "the mapped bytes", timeout=10)


def test_bytes_stored_in_a_mapping_after_close(folder: Folder, module_bucket: Witness) -> None:
    """They reach us after the last flush, at release: nobody waits, but they must not be lost."""
    (folder / "f").write_bytes(b"." * 8192)
    mapping = Mapping(folder / "f", 8192)
    mapping.store(100, b"after close")
    mapping.unmap()
    wanted = b"." * 100 + b"after close" + b"." * (8192 - 111)
    until(lambda: same(folder, module_bucket, "f", wanted), "the mapped bytes", timeout=10)


def test_unmounting_waits_for_mapped_bytes(mount: Mounts, bucket: Witness) -> None:
    mounted = mount(bucket)
    (mounted.path / "f").write_bytes(b"." * 4096)
    mapping = Mapping(mounted.path / "f", 4096)
    mapping.store(0, b"late")
    mapping.unmap()
    assert mounted.stop() == 0
    assert bucket.get("f") == b"late" + b"." * 4092


def test_copy_file_range_and_sendfile(folder: Folder, module_bucket: Witness) -> None:
    body = noise(300_000)
    (folder / "a").write_bytes(body)
    with open(folder / "a", "rb") as source, open(folder / "b", "wb") as target:
        left = len(body)
        while left:
            left -= os.copy_file_range(source.fileno(), target.fileno(), left)
    assert same(folder, module_bucket, "b", body)
    with open(folder / "a", "rb") as source, open(folder / "c", "wb") as target:
        os.sendfile(target.fileno(), source.fileno(), 0, len(body))
    assert same(folder, module_bucket, "c", body)


def test_posix_fallocate(folder: Folder, module_bucket: Witness) -> None:
    with open(folder / "f", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 50_000)
        file.write(b"x")
    assert same(folder, module_bucket, "f", b"x" + bytes(49_999))


def test_locks(folder: Folder) -> None:
    (folder / "f").write_text("x")
    with open(folder / "f", "r+b") as first, open(folder / "f", "r+b") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        with refused(errno.EWOULDBLOCK):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(first, fcntl.LOCK_UN)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(first, fcntl.LOCK_EX)


def test_special_refusals(folder: Folder) -> None:
    (folder / "f").write_text("x")
    with open(folder / "f", "rb") as file:
        with refused(errno.EBADF):
            os.write(file.fileno(), b"x")
        with refused(errno.EINVAL):
            os.ftruncate(file.fileno(), 0)
    with refused(errno.EISDIR):
        os.truncate(folder.path, 0)
    with refused(errno.ENOENT):
        os.truncate(folder / "absent", 0)


PARTS = (f"multipart_size={5}",)


@pytest.mark.parametrize("options", [(), PARTS], ids=["default", "multipart_size=5"])
def test_files_of_several_parts(mount: Mounts, bucket: Witness, options: tuple[str, ...]) -> None:
    path = mount(bucket, *options).path / "f"
    body = noise(17 * MIB + 4321)
    with open(path, "wb", 0) as file:
        file.writelines(body[start : start + 700_000] for start in range(0, len(body), 700_000))
    assert hashlib.sha256(bucket.get("f")).digest() == hashlib.sha256(body).digest()
    assert bucket.uploads() == []
    assert path.read_bytes() == body


def test_changes_inside_a_file_of_several_parts(mount: Mounts, bucket: Witness) -> None:
    body = bytearray(noise(16 * MIB))
    bucket.multipart("f", [bytes(body[: 8 * MIB]), bytes(body[8 * MIB :])], mode="33184")
    mounted = mount(bucket, *PARTS)
    path = mounted.path / "f"
    with open(path, "r+b", 0) as file:
        for start, data in ((6 * MIB, b"patched"), (11 * MIB + 5, b"again"), (0, b"head")):
            file.seek(start)
            file.write(data)
            body[start : start + len(data)] = data
    assert bucket.get("f") == body
    with open(path, "ab") as file:
        file.write(b"tail")
    body += b"tail"
    assert bucket.get("f") == body
    os.truncate(path, 9 * MIB + 1)
    assert bucket.get("f") == body[: 9 * MIB + 1]
    os.truncate(path, 13 * MIB)
    assert bucket.get("f") == body[: 9 * MIB + 1] + bytes(4 * MIB - 1)
    assert bucket.metadata("f")["mode"] == "33184"
    assert bucket.uploads() == []
    mounted.remount()
    assert path.read_bytes() == body[: 9 * MIB + 1] + bytes(4 * MIB - 1)


def test_random_order_over_several_parts(mount: Mounts, bucket: Witness) -> None:
    body = noise(13 * MIB)
    blocks = list(range(0, len(body), 512 * 1024))
    random.Random(5).shuffle(blocks)
    path = mount(bucket, *PARTS).path / "f"
    with open(path, "wb", 0) as file:
        for start in blocks:
            file.seek(start)
            file.write(body[start : start + 512 * 1024])
    assert bucket.get("f") == body


def test_read_only_mounts(mount: Mounts, bucket: Witness) -> None:
    bucket.put("f", b"content")
    bucket.put("d/f", b"")
    path = mount(bucket, "ro").path
    assert (path / "f").read_bytes() == b"content"
    for action in (
        lambda: (path / "f").write_bytes(b"x"),
        lambda: (path / "new").write_bytes(b"x"),
        (path / "f").unlink,
        lambda: (path / "f").rename(path / "g"),
        (path / "new").mkdir,
        (path / "d").rmdir,
        lambda: (path / "l").symlink_to("x"),
        lambda: os.chmod(path / "f", 0o600),
        lambda: os.utime(path / "f"),
        lambda: os.truncate(path / "f", 0),
        lambda: os.setxattr(path / "f", "user.a", b"1"),
    ):
        with refused(errno.EROFS):
            action()
    assert bucket.keys() == ["d/f", "f"]


def test_the_object_appears_where_others_wait_for_it(here: Folder, module_bucket: Witness) -> None:
    (here / "f").write_text("x")
    wait_for_key(module_bucket, here.prefix + "f", timeout=0.1)


def test_sqlite(folder: Folder) -> None:
    program = (
        "import sqlite3,sys\n"
        "db=sqlite3.connect(sys.argv[1]); db.execute('create table t(a integer)')\n"
        "for n in range(10):\n"
        "    db.execute('insert into t values(?)',(n,)); db.commit()\n"
        "assert db.execute('select sum(a) from t').fetchone()==(45,)\n"
        "assert db.execute('pragma integrity_check').fetchone()==('ok',)\n"
    )
    subprocess.check_call([sys.executable, "-c", program, folder / "db"])
    assert sorted(os.listdir(folder.path)) == ["db"]


def test_tar_and_diff(folder: Folder, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    for number in range(12):
        file = source / f"d{number % 3}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(noise(number * 997, number))
    (source / "d0/link").symlink_to("f0")
    subprocess.check_call(f"tar c -C {source} . | tar x -C {folder.path}", shell=True)
    subprocess.check_call(["diff", "-r", source, folder.path])
    if not shutil.which("rsync"):
        pytest.skip("rsync is not installed; tar and diff were right")
    output = subprocess.check_output(
        ["rsync", "-a", "--itemize-changes", f"{source}/", f"{folder.path}/"], text=True
    )
    assert [line for line in output.splitlines() if not line.startswith(".d")] == []


@pytest.mark.needs("checksums", "copied_parts")
def test_appending_where_copied_parts_lack_a_checksum(
    mount: Mounts, bucket: Witness, counted: Proxy
) -> None:
    body = os.urandom(64 * MIB)
    bucket.put("f", body)
    path = mount(bucket, f"url={counted.url}", "checksum=crc32c").path / "f"
    with minio(counted) as fault:
        for number in range(2):
            with path.open("ab") as file:
                file.write(b"tail %d" % number)
    assert fault.struck >= 1
    assert bucket.get("f") == body + b"tail 0tail 1"
    received = sum(r.received for r in counted.requests if r.operation == "GetObject")
    assert received < MIB, "its beginning, with the lookup"


def test_nomultipart(mount: Mounts, bucket: Witness, counted: Proxy) -> None:
    """Each file is one PutObject, changed in the middle or appended to as well."""
    path = mount(bucket, f"url={counted.url}", "nomultipart").path / "f"
    body = noise(70 * MIB)
    path.write_bytes(body)
    with path.open("r+b") as file:
        file.seek(30 * MIB)
        file.write(b"here")
        file.seek(0, os.SEEK_END)
        file.write(b"more")
    body = body[: 30 * MIB] + b"here" + body[30 * MIB + 4 :] + b"more"
    head = bucket.head("f")
    assert head is not None
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
    assert head["ETag"].strip('"') == digest
    assert counted.count("CreateMultipartUpload", "UploadPart") == 0, counted.story()
