"""Old versions as files: ``-o versions``."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import fresh_bucket
from tests.harness.endpoint import Endpoint
from tests.harness.mounts import SHARED, Mounts, as_user
from tests.harness.posix import refused
from tests.harness.proxy import Proxy
from tests.harness.waiting import until
from tests.harness.witness import Witness

pytestmark = pytest.mark.needs("versions")

OLD = "2020-01-01T00:00:00Z"
LISTING = "ListObjectVersions"


@pytest.fixture
def versioned(bucket: Witness) -> Iterator[Witness]:
    bucket.versioning()
    yield bucket
    bucket.forget_versions()


def versions(bucket: Witness, key: str) -> dict[str, dict[str, Any]]:
    """What boto3 says of the versions of a key, by id."""
    found = bucket.client.list_object_versions(Bucket=bucket.name, Prefix=key)
    return {each["VersionId"]: each for each in found["Versions"] if each["Key"] == key}


def contents(path: Path) -> list[bytes]:
    return [(path / name).read_bytes() for name in sorted(os.listdir(path))]


class TestContents:
    @pytest.mark.needs("full_names")
    def test_of_a_long_key(self, mount: Mounts, versioned: Witness) -> None:
        """With the name of a version behind it, it would be longer than any key can be."""
        key = "/".join(["d" * 200] * 5)
        assert len(key) == 1004
        for body in (b"first", b"second"):
            versioned.put(key, body)
        path = mount(versioned, "versions").path / key
        assert contents(path.parent / ".versions" / path.name) == [b"first", b"second"]

    def test_one_file_a_version(self, mount: Mounts, versioned: Witness) -> None:
        for body in (b"first", b"second", b"third"):
            versioned.put("d/f", body, mode=str(0o100640), mtime="1600000000.5")
        path = mount(versioned, "versions").path / "d" / ".versions" / "f"
        told = versions(versioned, "d/f")
        names = sorted(os.listdir(path))
        assert contents(path) == [b"first", b"second", b"third"]
        for name in names:
            time, _, version_id = name.partition(".")
            modified = told[version_id]["LastModified"]
            assert time.partition("~")[0] == modified.strftime("%Y-%m-%dT%H:%M:%SZ") or "~" in time
            shown = (path / name).stat()
            assert shown.st_size == told[version_id]["Size"]
            assert shown.st_mtime == 1600000000.5
            assert stat.S_IMODE(shown.st_mode) == 0o640
            assert os.getxattr(path / name, "user.s3.version_id") == version_id.encode()

    def test_its_time_is_that_of_the_version(self, mount: Mounts, versioned: Witness) -> None:
        versioned.put("f", b"x")
        path = mount(versioned, "versions").path / ".versions" / "f"
        (told,) = versions(versioned, "f").values()
        (name,) = os.listdir(path)
        assert (path / name).stat().st_mtime == int(told["LastModified"].timestamp())

    def test_deleted_ones_are_there_and_deletions_are_not(
        self, mount: Mounts, versioned: Witness
    ) -> None:
        versioned.put("f", b"was here")
        versioned.delete("f")
        versioned.put("gone/deep/g", b"with its directory")
        versioned.delete("gone/deep/g")
        path = mount(versioned, "versions").path
        assert not (path / "f").exists()
        assert sorted(os.listdir(path / ".versions")) == ["f", "gone"]
        assert contents(path / ".versions" / "f") == [b"was here"]
        assert contents(path / ".versions" / "gone" / "deep" / "g") == [b"with its directory"]

    def test_what_was_a_file_and_a_directory(self, mount: Mounts, versioned: Witness) -> None:
        versioned.put("x", b"a file")
        versioned.delete("x")
        versioned.put("x/y", b"in a directory")
        path = mount(versioned, "versions").path / ".versions" / "x"
        name, below = sorted(os.listdir(path))
        assert (path / name).read_bytes() == b"a file"
        assert below == "y"
        assert contents(path / "y") == [b"in a directory"]

    def test_below_a_prefix(self, mount: Mounts, versioned: Witness) -> None:
        versioned.put("p/d/f", b"old")
        versioned.put("p/d/f", b"new")
        versioned.put("other", b"not mounted")
        path = mount(versioned, "versions", prefix="p/").path
        assert os.listdir(path / ".versions") == ["d"]
        assert contents(path / ".versions" / "d" / "f") == [b"old", b"new"]
        assert contents(path / "d" / ".versions" / "f") == [b"old", b"new"]

    def test_more_than_a_page(self, mount: Mounts, versioned: Witness, counted: Proxy) -> None:
        versioned.put_many({f"d/{number:04}": b"%d" % number for number in range(1100)})
        versioned.put("d/0500", b"again")
        path = mount(versioned, "versions", url=counted.url).path / "d" / ".versions"
        assert sorted(os.listdir(path)) == [f"{number:04}" for number in range(1100)]
        assert counted.counts()[LISTING] == 2, counted.story()
        assert contents(path / "0500") == [b"500", b"again"]
        assert contents(path / "1099") == [b"1099"]

    def test_odd_names(self, mount: Mounts, versioned: Witness) -> None:
        names = ["a b", "ä", "%41", "+", OLD + ".x", "f", "f.txt", "f-1", "f/g"]
        for name in names:
            versioned.put(f"d/{name}", name.encode())
        path = mount(versioned, "versions").path / "d" / ".versions"
        assert sorted(os.listdir(path)) == sorted({name.partition("/")[0] for name in names})
        for name in names:
            files = [each for each in (path / name).iterdir() if each.is_file()]
            assert [file.read_bytes() for file in files] == [name.encode()], name

    def test_names_that_look_like_versions(self, mount: Mounts, versioned: Witness) -> None:
        """They are found without a listing, which nobody needs who knows the name."""
        versioned.put(f"{OLD}.tar", b"at the top")
        versioned.put(f"d/{OLD}.tar", b"in a directory")
        versioned.put(f"d/{OLD}.dir/f", b"below a directory")
        path = mount(versioned, "versions").path
        assert contents(path / ".versions" / f"{OLD}.tar") == [b"at the top"]
        assert contents(path / "d" / ".versions" / f"{OLD}.tar") == [b"in a directory"]
        assert contents(path / ".versions" / "d" / f"{OLD}.tar") == [b"in a directory"]
        assert contents(path / ".versions" / "d" / f"{OLD}.dir" / "f") == [b"below a directory"]

    def test_a_bucket_without_versions(self, mount: Mounts, bucket: Witness) -> None:
        bucket.put("f", b"x")
        bucket.put("f", b"now")
        path = mount(bucket, "versions").path / ".versions"
        assert os.listdir(path) == ["f"]
        (name,) = os.listdir(path / "f")
        assert name.endswith("Z.null")
        assert (path / "f" / name).read_bytes() == b"now"

    def test_an_empty_directory(self, mount: Mounts, versioned: Witness) -> None:
        path = mount(versioned, "versions").path
        (path / "d").mkdir()
        assert os.listdir(path / "d" / ".versions") == []
        assert not (path / "d" / ".versions" / "f").exists()


class TestUse:
    def test_copying_one_restores_it(self, mount: Mounts, versioned: Witness) -> None:
        path = mount(versioned, "versions").path
        (path / "f").write_bytes(b"good")
        (path / "f").write_bytes(b"bad")
        old = path / ".versions" / "f"
        subprocess.run(["cp", old / min(os.listdir(old)), path / "f"], check=True)
        assert versioned.get("f") == b"good"
        assert contents(old) == [b"good", b"bad", b"good"]

    def test_changes_made_here_show_at_once(self, mount: Mounts, versioned: Witness) -> None:
        path = mount(versioned, "versions", "open_ttl=60").path
        old = path / ".versions"
        assert os.listdir(old) == []
        (path / "f").write_bytes(b"1")
        assert os.listdir(old) == ["f"]
        assert contents(old / "f") == [b"1"]
        (path / "f").write_bytes(b"2")
        assert contents(old / "f") == [b"1", b"2"]
        (path / "f").unlink()
        assert contents(old / "f") == [b"1", b"2"]
        (path / "d").mkdir()
        (path / "d" / "g").write_bytes(b"3")
        assert sorted(os.listdir(old)) == ["d", "f"]
        (path / "d").rename(path / "e")
        assert contents(path / "e" / ".versions" / "g") == [b"3"]
        assert sorted(os.listdir(old)) == ["d", "e", "f"]
        shutil.rmtree(path / "e")
        assert sorted(os.listdir(old)) == ["d", "e", "f"]
        assert not versioned.keys()

    def test_others_changes_show_soon(self, mount: Mounts, versioned: Witness) -> None:
        versioned.put("f", b"1")
        path = mount(versioned, "versions", "open_ttl=0.1").path / ".versions" / "f"
        assert contents(path) == [b"1"]
        versioned.put("f", b"2")
        until(lambda: contents(path) == [b"1", b"2"], "the new version shows")

    def test_is_in_no_listing(self, mount: Mounts, versioned: Witness) -> None:
        versioned.put("d/f", b"x")
        path = mount(versioned, "versions").path
        assert os.listdir(path) == ["d"]
        assert (path / ".versions").is_dir()
        assert os.listdir(path) == ["d"]
        assert [names for _, *names in os.walk(path)] == [[["d"], []], [[], ["f"]]]

    def test_is_read_only(self, mount: Mounts, versioned: Witness) -> None:
        versioned.put("f", b"x")
        path = mount(versioned, "versions").path
        old = path / ".versions"
        (name,) = os.listdir(old / "f")
        file = old / "f" / name
        for attempt in (
            lambda: file.write_bytes(b"y"),
            lambda: os.truncate(file, 0),
            lambda: file.chmod(0o600),
            lambda: os.utime(file),
            lambda: os.setxattr(file, "user.a", b"1"),
            file.unlink,
            (old / "f").rmdir,
            old.rmdir,
            (old / "new").mkdir,
            lambda: (old / "new").write_bytes(b"y"),
            lambda: (old / "link").symlink_to("f"),
            lambda: file.rename(path / "g"),
            lambda: (path / "f").rename(old / "g"),
            lambda: old.rename(path / "g"),
        ):
            with refused(errno.EROFS):
                attempt()
        assert versioned.keys() == ["f"]
        assert len(versions(versioned, "f")) == 1

    @pytest.mark.needs("dot_versions")
    def test_the_name_is_taken(self, mount: Mounts, versioned: Witness) -> None:
        versioned.put(".versions/theirs", b"x")
        versioned.put("f", b"y")
        made = mount(versioned, "versions")
        made.expected.append("is not shown: -o versions has that name")
        assert os.listdir(made.path) == ["f"]
        assert "'.versions' in the bucket is not shown" in made.log.read_text()
        assert sorted(os.listdir(made.path / ".versions")) == [".versions", "f"]
        assert contents(made.path / ".versions" / ".versions" / "theirs") == [b"x"]
        assert versioned.get(".versions/theirs") == b"x"
        with refused(errno.EEXIST):
            (made.path / ".versions").mkdir()

    @pytest.mark.needs("dot_versions")
    def test_the_name_is_taken_in_what_is_listed_ahead(
        self, mount: Mounts, versioned: Witness
    ) -> None:
        """A walk has whole trees listed at once, with all that is in them."""
        for number in range(12):
            for name in ("d/f", "d/.versions/theirs", "only/.versions/theirs", ".versions"):
                versioned.put(f"{number:02}/{name}", b"x")
        made = mount(versioned, "versions", "open_ttl=60")
        made.expected.append("is not shown: -o versions has that name")
        walked = [(names, files) for _, names, files in os.walk(made.path)]
        assert sorted(name for names, _ in walked[1:] for name in names) == sorted(
            ["d", "only"] * 12
        )
        assert [name for _, files in walked for name in files] == ["f"] * 12
        assert made.log.read_text().count("is not shown") == 1
        os.rename(made.path / "03", made.path / "moved")
        assert versioned.get("moved/only/.versions/theirs") == b"x"

    def test_all_buckets(
        self, mount: Mounts, versioned: Witness, endpoint: Endpoint, outlives: ExitStack
    ) -> None:
        versioned.put("d/f", b"1")
        versioned.put("d/f", b"2")
        second = fresh_bucket(endpoint, outlives)
        second.put("f", b"unversioned")
        made = mount(versioned, "versions", start=False)
        made.source = ":/"
        made.start()
        assert contents(made.path / versioned.name / "d" / ".versions" / "f") == [b"1", b"2"]
        assert contents(made.path / second.name / ".versions" / "f") == [b"unversioned"]
        assert not (made.path / ".versions").exists()

    @pytest.mark.needs("marker_metadata")
    @pytest.mark.needs_root("another user looks")
    def test_is_as_open_as_its_directory(self, mount: Mounts, versioned: Witness) -> None:
        versioned.put("closed/", mode=str(0o040700))
        versioned.put("closed/f", b"secret")
        versioned.put("open/f", b"for all")
        path = mount(versioned, "versions", *SHARED).path
        assert as_user(lambda: len(contents(path / "open/.versions/f"))) == 1
        for closed in (path / "closed/.versions/f", path / ".versions/closed/f"):
            with refused(errno.EACCES):
                as_user(lambda closed=closed: len(os.listdir(closed)))

    @pytest.mark.needs_root("another user looks")
    def test_with_access_control_lists(self, mount: Mounts, versioned: Witness) -> None:
        versioned.put("d/f", b"for all", mode=str(0o100644), uid="1", gid="1")
        path = mount(versioned, "versions", "enable_acl", *SHARED).path / "d/.versions/f"
        assert as_user(lambda: len(contents(path))) == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "code", "number"),
        [(403, "AccessDenied", errno.EACCES), (501, "NotImplemented", errno.ENOTSUP)],
    )
    def test_no_listing_of_versions(
        self,
        mount: Mounts,
        versioned: Witness,
        counted: Proxy,
        status: int,
        code: str,
        number: int,
    ) -> None:
        versioned.put("f", b"x")
        made = mount(versioned, "versions", url=counted.url)
        made.expected.append(f"readdir failed .*ListObjectVersions.*{code}")
        with counted.fault(LISTING, status=status, code=code), refused(number):
            os.listdir(made.path / ".versions")
        assert (made.path / "f").read_bytes() == b"x"
        assert os.listdir(made.path / ".versions") == ["f"]


class TestRequests:
    def test_one_a_directory(self, mount: Mounts, versioned: Witness, counted: Proxy) -> None:
        for number in range(20):
            versioned.put(f"d/{number}", b"1")
            versioned.put(f"d/{number}", b"2")
        path = mount(versioned, "versions", "open_ttl=30", url=counted.url).path / "d"
        os.listdir(path)
        counted.clear()
        assert len(os.listdir(path / ".versions")) == 20
        assert counted.counts() == {LISTING: 1}, counted.story()
        for name in os.listdir(path / ".versions"):
            assert len(os.listdir(path / ".versions" / name)) == 2
        assert counted.counts() == {LISTING: 1}, counted.story()

    def test_a_version_by_its_name(self, mount: Mounts, versioned: Witness, counted: Proxy) -> None:
        versioned.put("d/f", b"1")
        options = "versions", "open_ttl=30"
        old = mount(versioned, *options).path / "d/.versions/f"
        (name,) = os.listdir(old)
        path = mount(versioned, *options, url=counted.url).path / "d/.versions/f" / name
        os.listdir(path.parents[2])
        counted.clear()
        assert path.read_bytes() == b"1"
        assert path.read_bytes() == b"1"
        assert counted.counts()[LISTING] == 1, counted.story()
        assert counted.count() <= 3, counted.story()

    @pytest.mark.needs("dot_versions")
    def test_nothing_without_the_option(
        self, mount: Mounts, versioned: Witness, counted: Proxy
    ) -> None:
        versioned.put("f", b"1")
        path = mount(versioned, url=counted.url).path
        assert not (path / ".versions").exists()
        (path / ".versions").mkdir()
        assert sorted(os.listdir(path)) == [".versions", "f"]
        assert LISTING not in counted.counts(), counted.story()

    def test_a_mount_asks_nothing_more(
        self, mount: Mounts, versioned: Witness, counted: Proxy
    ) -> None:
        mount(versioned, url=counted.url).stop()
        before = counted.counts()
        counted.clear()
        mount(versioned, "versions", url=counted.url)
        assert counted.counts() == before, counted.story()
