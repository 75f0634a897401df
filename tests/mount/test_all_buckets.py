"""All buckets of an account as directories of one mount, with boto3 as the witness."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from botocore.exceptions import ClientError

from tests.conftest import fresh_bucket
from tests.harness.endpoint import REPOSITORY, Endpoint
from tests.harness.mounts import Mount, Mounts, wait_for_key
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

MIB = 1 << 20
#: What the log may say: uploads were refused, and a mount was killed.
EXPECTED = "made up by the proxy|is not saved yet|was not unmounted"


def entire(
    mount: Mounts, bucket: Witness, *options: str, url: str = "", start: bool = True
) -> Mount:
    """A mount of all buckets of the account that `bucket` is in."""
    mounted = mount(bucket, *options, url=url, start=False)
    mounted.source = ":/"
    if start:
        mounted.start()
    return mounted


@pytest.fixture
def second(endpoint: Endpoint, outlives: ExitStack) -> Witness:
    return fresh_bucket(endpoint, outlives)


def has_bucket(bucket: Witness, name: str) -> bool:
    try:
        bucket.client.head_bucket(Bucket=name)
    except ClientError:
        return False
    return True


def fails(code: int, action: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=rf"\[Errno {code}\]"):
        action()


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bucketfs", *words],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip


class TestBuckets:
    def test_are_directories(self, mount: Mounts, bucket: Witness, second: Witness) -> None:
        bucket.put("d/f", b"first")
        path = entire(mount, bucket).path
        assert {bucket.name, second.name} <= set(os.listdir(path))
        assert (path / bucket.name / "d/f").read_bytes() == b"first"
        (path / second.name / "new").write_bytes(b"second")
        assert second.get("new") == b"second"
        assert not bucket.exists("new")
        shown = (path / bucket.name).stat()
        assert stat.S_ISDIR(shown.st_mode)
        assert shown.st_ino != (path / second.name).stat().st_ino != path.stat().st_ino
        assert path.stat().st_ino == 1

    def test_listing_them_enters_none(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        path = entire(mount, bucket, "open_ttl=60", url=counted.url).path
        assert counted.counts() == {"ListBuckets": 1}, counted.story()
        for _ in range(2):
            with os.scandir(path) as entries:
                assert all(entry.stat().st_mode for entry in entries)
            assert os.listxattr(path / bucket.name) == []
            assert os.access(path / second.name, os.W_OK)
        assert counted.counts() == {"ListBuckets": 1}, counted.story()
        counted.clear()
        os.listdir(path / bucket.name)
        assert set(counted.counts()) <= {"ListObjectsV2"}, counted.story()
        assert counted.count() <= 2, counted.story()

    def test_appear_and_vanish(
        self, mount: Mounts, bucket: Witness, second: Witness, endpoint: Endpoint
    ) -> None:
        path = entire(mount, bucket, "open_ttl=0.1").path
        assert second.name in os.listdir(path)
        second.client.delete_bucket(Bucket=second.name)
        until(lambda: second.name not in os.listdir(path), "the bucket vanishes")
        until(lambda: not (path / second.name).exists(), "the kernel has heard of it")
        second.client.create_bucket(Bucket=second.name)
        until(lambda: second.name in os.listdir(path), "the bucket appears")
        (path / second.name / "f").write_bytes(b"bytes")
        assert second.get("f") == b"bytes"

    def test_one_that_others_delete_is_gone_with_the_first_answer(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        second.put("d/f", b"first")
        mounted = entire(mount, bucket, "open_ttl=5", url=counted.url)
        path = mounted.path / second.name
        assert second.name in os.listdir(mounted.path)
        assert (path / "d" / "f").read_bytes() == b"first"
        second.delete("d/f")
        second.client.delete_bucket(Bucket=second.name)
        fails(errno.ENOENT, lambda: os.listdir(path / "never seen"))
        counted.clear()
        assert second.name not in os.listdir(mounted.path)
        assert counted.count() == 0, counted.story()  # the list of buckets is not due yet
        until(lambda: not path.exists(), "the kernel has heard of it")
        fails(errno.ENOENT, lambda: os.listdir(path))
        second.client.create_bucket(Bucket=second.name)
        second.put("new", b"second")
        until(lambda: second.name in os.listdir(mounted.path), "the bucket appears")
        assert os.listdir(path) == ["new"]
        assert not (path / "d").exists()

    @pytest.mark.needs("gone_buckets")
    def test_writing_into_one_that_is_gone_is_an_error(
        self, mount: Mounts, bucket: Witness, second: Witness
    ) -> None:
        mounted = entire(mount, bucket, "retries=1")
        mounted.expected.append("bucket .* is gone|NoSuchBucket|not in the bucket|is not saved")
        mounted.expected.append("is in .*unsaved")
        file = (mounted.path / second.name / "f").open("wb", buffering=0)
        file.write(b"bytes")
        second.client.delete_bucket(Bucket=second.name)
        fails(errno.EIO, file.close)
        assert second.name not in os.listdir(mounted.path)
        assert mounted.stop() == 1
        second.client.create_bucket(Bucket=second.name)

    def test_others_new_one_is_found_by_its_name(
        self, mount: Mounts, bucket: Witness, outlives: ExitStack, endpoint: Endpoint
    ) -> None:
        path = entire(mount, bucket, "open_ttl=60").path
        os.listdir(path)
        late = fresh_bucket(endpoint, outlives)
        late.put("f", b"bytes")
        assert (path / late.name / "f").read_bytes() == b"bytes"

    def test_names_of_all_kinds(self, mount: Mounts, bucket: Witness, outlives: ExitStack) -> None:
        name = f"{bucket.name}.with.dots"
        path = entire(mount, bucket).path
        (path / name).mkdir()
        dotted = Witness(bucket.endpoint, name, bucket.client)
        outlives.callback(lambda: (dotted.destroy(), None))
        (path / name / "f").write_bytes(b"bytes")
        assert dotted.get("f") == b"bytes"
        for impossible in (".hidden", "with space", "ümlaut", "-dash"):
            assert not (path / impossible).exists()
            fails(errno.EINVAL, (path / impossible).mkdir)

    def test_made_and_deleted(self, mount: Mounts, bucket: Witness) -> None:
        path = entire(mount, bucket).path
        name = f"{bucket.name}-made"
        (path / name).mkdir()
        assert has_bucket(bucket, name)
        fails(errno.EEXIST, (path / name).mkdir)
        (path / name / "d").mkdir()
        (path / name / "d/f").write_bytes(b"bytes")
        fails(errno.ENOTEMPTY, (path / name).rmdir)
        assert has_bucket(bucket, name)
        (path / name / "d/f").unlink()
        (path / name / "d").rmdir()
        (path / name).rmdir()
        assert not has_bucket(bucket, name)
        assert name not in os.listdir(path)
        assert not (path / name).exists()
        (path / name).mkdir()
        assert os.listdir(path / name) == []
        (path / name / "f").write_bytes(b"again")
        (path / name / "f").unlink()
        (path / name).rmdir()
        assert not has_bucket(bucket, name)

    def test_rm_r_of_one(self, mount: Mounts, bucket: Witness) -> None:
        path = entire(mount, bucket, "writeback").path
        name = f"{bucket.name}-tree"
        for number in range(30):
            (path / name / f"d{number % 3}").mkdir(parents=True, exist_ok=True)
            (path / name / f"d{number % 3}/f{number}").write_bytes(b"bytes")
        subprocess.run(["rm", "-r", str(path / name)], check=True)
        assert not has_bucket(bucket, name)

    def test_a_refused_one(self, mount: Mounts, bucket: Witness, counted: Proxy) -> None:
        mounted = entire(mount, bucket, url=counted.url)
        name = f"{bucket.name}-refused"
        mounted.expected.append("is not (made|deleted)")
        with counted.fault("CreateBucket", status=403, code="AccessDenied"):
            fails(errno.EPERM, (mounted.path / name).mkdir)
        with counted.fault("DeleteBucket", status=403, code="AccessDenied"):
            fails(errno.EPERM, (mounted.path / bucket.name).rmdir)
        log = mounted.log.read_text()
        assert f"bucket {name} is not made: CreateBucket of '{name}': AccessDenied" in log
        assert f"bucket {bucket.name} is not deleted" in log
        assert bucket.name in os.listdir(mounted.path)
        with counted.fault("CreateBucket", status=409, code="BucketAlreadyExists"):
            fails(errno.EEXIST, (mounted.path / name).mkdir)

    @pytest.mark.needs("own_buckets")
    def test_lost_answers(self, mount: Mounts, bucket: Witness, counted: Proxy) -> None:
        path = entire(mount, bucket, url=counted.url).path
        name = f"{bucket.name}-lost"
        with counted.fault("CreateBucket", reset="after", times=1):
            (path / name).mkdir()
        assert has_bucket(bucket, name)
        with counted.fault("DeleteBucket", reset="after", times=1):
            (path / name).rmdir()
        assert not has_bucket(bucket, name)

    def test_keys_that_may_not_list_them(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        bucket.put("f", b"bytes")
        mounted = entire(mount, bucket, url=counted.url, start=False)
        with counted.fault("ListBuckets", status=403, code="AccessDenied"):
            mounted.start()
            fails(errno.EACCES, lambda: os.listdir(mounted.path))
            assert (mounted.path / bucket.name / "f").read_bytes() == b"bytes"
            assert os.listdir(mounted.path) == [bucket.name]
        mounted.expected.append("readdir failed with EACCES")

    def test_an_endpoint_that_does_not_answer(
        self, mount: Mounts, bucket: Witness, counted: Proxy
    ) -> None:
        mounted = entire(mount, bucket, url=counted.url, start=False)
        with (
            counted.fault("ListBuckets", status=403, code="InvalidAccessKeyId"),
            pytest.raises(AssertionError, match="all buckets: InvalidAccessKeyId"),
        ):
            mounted.start()


@pytest.mark.needs("plain_keys")
class TestKeys:
    def test_of_each_bucket(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        """Requests on a bucket are signed with the keys that its line names."""
        mounted = entire(mount, bucket, url=counted.url, start=False)
        passwd = mounted.scratch / "passwd"
        passwd.touch(0o600)
        end = bucket.endpoint
        passwd.write_text(
            f"{end.access_key}:{end.secret_key}\n{second.name}:AKIAOTHER:{end.secret_key}\n"
        )
        mounted.start()

        def others(request: object) -> bool:
            return "AKIAOTHER" in request.headers.get("authorization", "")  # type: ignore[attr-defined]

        with counted.fault(status=403, code="AccessDenied", when=others):
            os.listdir(mounted.path / bucket.name)
            fails(errno.EACCES, lambda: os.listdir(mounted.path / second.name))
            mounted.expected.append("enter failed with EACCES")
            assert f"in {second.name}: NoRights" in mounted.log.read_text()
        assert all(
            others(request) == (request.bucket == second.name) for request in counted.requests
        ), counted.story()

    def test_one_that_the_list_does_not_have(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        """A bucket with a line of its own is shown, whoever has it."""
        mounted = entire(mount, bucket, url=counted.url, start=False)
        passwd = mounted.scratch / "passwd"
        passwd.touch(0o600)
        keys = f"{bucket.endpoint.access_key}:{bucket.endpoint.secret_key}"
        passwd.write_text(f"{keys}\n{second.name}:{keys}\n")

        def without(body: bytes) -> bytes:
            return body.replace(second.name.encode(), bucket.name.encode())

        with counted.fault("ListBuckets", rewrite_answer=without):
            mounted.start()
            assert {bucket.name, second.name} <= set(os.listdir(mounted.path))

    def test_no_line_for_all(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        """The buckets that have a line are shown, and nobody is asked for others."""
        bucket.put("f", b"bytes")
        mounted = entire(mount, bucket, url=counted.url, start=False)
        mounted.expected.append("no line for bucket")
        passwd = mounted.scratch / "passwd"
        passwd.touch(0o600)
        end = bucket.endpoint
        passwd.write_text(f"{bucket.name}:{end.access_key}:{end.secret_key}\n")
        mounted.start()
        assert os.listdir(mounted.path) == [bucket.name]
        assert (mounted.path / bucket.name / "f").read_bytes() == b"bytes"
        assert not (mounted.path / second.name).exists()
        fails(errno.EACCES, (mounted.path / f"{bucket.name}-new").mkdir)
        assert {request.bucket for request in counted.requests} == {bucket.name}


class TestRoot:
    def test_has_no_files(self, mount: Mounts, bucket: Witness) -> None:
        path = entire(mount, bucket).path
        fails(errno.EPERM, (path / "file").touch)
        fails(errno.EPERM, lambda: os.symlink("target", path / "link"))
        fails(errno.EPERM, lambda: os.mkfifo(path / "pipe"))
        fails(errno.EPERM, lambda: path.chmod(0o700))
        fails(errno.EISDIR, lambda: os.unlink(path / bucket.name))
        assert os.listxattr(path) == []
        assert os.statvfs(path).f_blocks

    def test_renames(self, mount: Mounts, bucket: Witness, second: Witness) -> None:
        path = entire(mount, bucket).path
        one, two = path / bucket.name, path / second.name
        (one / "f").write_bytes(b"bytes")
        (one / "d").mkdir()
        fails(errno.EXDEV, lambda: os.rename(one / "f", two / "f"))
        fails(errno.EXDEV, lambda: os.rename(one / "d", path / "newbucket"))
        fails(errno.EPERM, lambda: os.rename(one, path / "newbucket"))
        fails(errno.EPERM, lambda: os.rename(one, two))
        os.rename(one / "f", one / "d/f")
        assert bucket.get("d/f") == b"bytes"
        subprocess.run(["mv", str(one / "d"), str(two)], check=True)
        assert second.get("d/f") == b"bytes"
        assert not bucket.keys()

    def test_a_removed_file_goes_on(self, mount: Mounts, bucket: Witness) -> None:
        path = entire(mount, bucket).path
        with (path / bucket.name / "f").open("w+b", 0) as file:
            file.write(b"bytes")
            (path / bucket.name / "f").unlink()
            assert os.fstat(file.fileno()).st_nlink == 0
            assert os.pread(file.fileno(), 9, 0) == b"bytes"


class TestPromises:
    def test_outlive_a_kill_in_each_bucket(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        mounted = entire(mount, bucket, "writeback", "retries=1", url=counted.url)
        mounted.expected.append(EXPECTED)
        with counted.fault("PutObject", status=503):
            for witness in (bucket, second):
                (mounted.path / witness.name / "f").write_bytes(witness.name.encode())
            mounted.kill9()
        assert not bucket.exists("f")
        assert not second.exists("f")
        mounted.start()
        for witness in (bucket, second):
            wait_for_key(witness, "f")
            assert witness.get("f") == witness.name.encode()

    def test_unmounting_waits_for_all(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        mounted = entire(mount, bucket, "writeback", url=counted.url)
        mounted.expected.append(EXPECTED)
        with counted.fault("PutObject", delay=1.0):
            for witness in (bucket, second):
                for number in range(3):
                    (mounted.path / witness.name / f"f{number}").write_bytes(b"bytes")
            assert mounted.stop() == 0
        for witness in (bucket, second):
            assert witness.keys() == ["f0", "f1", "f2"]

    @pytest.mark.needs("gone_buckets")
    def test_one_bucket_is_gone_meanwhile(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        """What was for it stays on this machine; the other buckets go on."""
        mounted = entire(mount, bucket, "writeback", "retries=1", "open_ttl=0.1", url=counted.url)
        mounted.expected.append("bucket .* is gone|NoSuchBucket|not in the bucket|is not saved")
        mounted.expected.append(EXPECTED)
        with counted.fault("PutObject", status=503):
            (mounted.path / second.name / "f").write_bytes(b"left")
            (mounted.path / bucket.name / "f").write_bytes(b"saved")
            second.client.delete_bucket(Bucket=second.name)
            until(lambda: second.name not in os.listdir(mounted.path), "the bucket vanishes")
        assert mounted.stop() == 1
        assert bucket.get("f") == b"saved"
        second.client.create_bucket(Bucket=second.name)
        mounted.start()
        wait_for_key(second, "f")
        assert second.get("f") == b"left"

    def test_what_is_left_for_a_bucket_that_is_gone(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        mounted = entire(mount, bucket, "writeback", "retries=1", url=counted.url)
        mounted.expected += [
            EXPECTED,
            "bucket .* cannot be entered, what an earlier mount has left",
        ]
        with counted.fault("PutObject", status=503):
            for witness in (bucket, second):
                (mounted.path / witness.name / "f").write_bytes(b"bytes")
            mounted.kill9()
        second.client.delete_bucket(Bucket=second.name)
        mounted.start()
        wait_for_key(bucket, "f")
        assert "an earlier mount has left for it" in mounted.log.read_text()
        second.client.create_bucket(Bucket=second.name)
        mounted.remount()
        wait_for_key(second, "f")


class TestCommands:
    @pytest.mark.needs("versions")
    def test_tell_of_all_buckets(
        self, mount: Mounts, bucket: Witness, second: Witness, counted: Proxy
    ) -> None:
        mounted = entire(mount, bucket, "writeback", "retries=1", url=counted.url)
        mounted.expected.append(EXPECTED)
        paths = [mounted.path / witness.name / "f" for witness in (bucket, second)]
        with counted.fault("PutObject", status=503):
            for path in paths:
                path.write_bytes(b"bytes")
            told = json.loads(command("status", "--json", str(mounted.path)).stdout)
            told = told["mounts"][0] if "mounts" in told else told
            waiting = {item["path"] for item in told["waiting"]["items"]}
            assert waiting == {f"{bucket.name}/f", f"{second.name}/f"}
            assert told["waiting"]["files"] == 2
            until(lambda: f"of 'f' in {second.name}: " in mounted.log.read_text(), "a line of it")
        assert command("flush", str(paths[0].parent)).returncode == 0
        assert bucket.get("f") == b"bytes"
        assert command("flush", str(mounted.path)).returncode == 0
        assert second.get("f") == b"bytes"
        done = command("info", "--json", str(paths[1]))
        assert json.loads(done.stdout)["bucket"] == second.name
        assert command("versions", str(paths[1])).returncode == 0

    def test_refresh(self, mount: Mounts, bucket: Witness, second: Witness) -> None:
        mounted = entire(mount, bucket, "immutable")
        one = mounted.path / bucket.name
        assert os.listdir(one) == []
        assert second.name in os.listdir(mounted.path)
        bucket.put("new", b"bytes")
        second.client.delete_bucket(Bucket=second.name)
        assert os.listdir(one) == []
        assert command("refresh", str(mounted.path)).returncode == 0
        assert os.listdir(one) == ["new"]
        assert second.name not in os.listdir(mounted.path)
        second.client.create_bucket(Bucket=second.name)


class TestCache:
    @pytest.mark.time_limit(120)
    def test_one_budget(self, mount: Mounts, bucket: Witness, second: Witness) -> None:
        mounted = entire(mount, bucket, "cache_size=64M")
        for witness in (bucket, second):
            for number in range(6):
                witness.put(f"f{number}", os.urandom(8 * MIB))
        for witness in (bucket, second):
            for number in range(6):
                assert len((mounted.path / witness.name / f"f{number}").read_bytes()) == 8 * MIB
        until(lambda: mounted.cached() <= 72 * MIB, "the cache keeps to its size")

    def test_many_at_once(self, mount: Mounts, bucket: Witness, second: Witness) -> None:
        """A bucket that several programs enter at the same moment has one tree."""
        mounted = entire(mount, bucket)
        for number in range(8):
            bucket.put(f"f{number}", b"%d" % number)
        found: list[bytes] = []

        def read(number: int) -> None:
            found.append((mounted.path / bucket.name / f"f{number}").read_bytes())

        threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [b"%d" % number for number in range(8)]
        assert len(list((mounted.scratch / "cache").glob("*/lock"))) == 1
