"""Datasets: their files, whose they may be, and what a command line makes of them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs.cli.commands import dataset
from bucketfs.cli.failure import Failure
from bucketfs.cli.options import complete, datasets
from bucketfs.cli.options.arguments import ParseError, tokenise
from bucketfs.cli.options.dataset_file import Dataset, DatasetError, parse, text_of
from bucketfs.cli.options.datasets import Place
from bucketfs.options import Options

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


class TestFormat:
    def test_all_of_it(self) -> None:
        text = """
            bucket = "b"
            prefix = "/a/ü b/"
            url = "https://h/"
            passwd_file = "keys"
            options = ["ro", "stat_cache_expire=10m", "noatime"]
        """
        words = (("ro", None), ("stat_cache_expire", "10m"), ("noatime", None))
        assert parse(text) == Dataset("b", "a/ü b", "https://h", "keys", words)

    def test_a_table_of_options(self) -> None:
        text = 'bucket = "b"\n[options]\nro = true\nuse_xattr = false\nnoatime = false\nuid = 7\n'
        assert parse(text).options == (("ro", None), ("use_xattr", "0"), ("uid", "7"))

    def test_source(self) -> None:
        assert Dataset("b").source() == "b:"
        assert Dataset("b").source("x/y") == "b:/x/y"
        assert Dataset("b", "p").source() == "b:/p"
        assert Dataset("b", "p").source("/x/") == "b:/p/x"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("bucket", "is no TOML"),
            ("", "names no bucket"),
            ('bucket = ""', "names no bucket"),
            ("bucket = 7", "bucket: must be a text"),
            ('bucket = "b/c"', "with a colon"),
            ('bucket = "b"\nprefix = "../x"', "'.' and '..'"),
            ('bucket = "b"\nprefix = "a\\nb"', "control character"),
            ('bucket = "b"\nprefix = "\udcff"', "prefix: is not UTF-8"),
            ('bucket = "b"\noptions = ["storage_class=\udcff"]', "options: is not UTF-8"),
            ('bucket = "b"\nurl = "h"', "url: must begin with http"),
            ('bucket = "b"\nurl = "https://me:pw@h"', "url: must be an address without a user"),
            ('bucket = "b"\nbuckett = "c"', "buckett: unknown name; did you mean bucket?"),
            ('bucket = "b"\nro = true', 'it is an option: options = ["ro"]'),
            ('bucket = "b"\nq = true', "'q': unknown name; known are bucket, prefix"),
            ('bucket = "b"\noptions = "ro"', "options: must be a list of texts, or a table"),
            ('bucket = "b"\noptions = [7]', "options: must be a text"),
            ('bucket = "b"\noptions = [""]', "options: one of them is empty"),
            ('bucket = "b"\noptions = ["cache_siz=1"]', "did you mean cache_size?"),
            ('bucket = "b"\noptions = ["uid=x"]', "uid=x:"),
            ('bucket = "b"\noptions = ["host=http://h"]', "host stands outside of the options"),
            ('bucket = "b"\noptions = ["bucket=c"]', "bucket stands outside of the options"),
            ('bucket = "b"\noptions = ["secretAccessKey=hush"]', "secretAccessKey: everyone can"),
            ('bucket = "b"\n[options]\nro = [1]', "options: ro must be a text, a number"),
            ('bucket = "b"\npasswd_file="k"\noptions=["public_bucket"]', "exclude each other"),
        ],
    )
    def test_wrong(self, text: str, words: str) -> None:
        with pytest.raises(DatasetError) as caught:
            parse(text)
        line = str(caught.value)
        assert words in line
        assert "\n" not in line
        assert "hush" not in line

    @given(TEXT, st.sampled_from(["", "https://h:9/x"]), st.lists(TEXT, max_size=3))
    def test_what_is_written_reads_back(self, prefix: str, url: str, names: list[str]) -> None:
        options = tuple(("instance_name", name) for name in names)
        dataset = Dataset("b", prefix.strip("/"), url, "~/k", options)
        with contextlib.suppress(DatasetError):  # of "..", and of what is too long
            assert parse(text_of(dataset)) == dataset

    @given(st.text())
    def test_any_text_gives_a_dataset_or_one_line(self, text: str) -> None:
        with contextlib.suppress(DatasetError):
            parse(text)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's datasets; the machine's are in `etc` beside."""
    user = tmp_path / "config" / "bucketfs"
    user.mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(datasets, "ETC", tmp_path / "etc")
    return user


def write(directory: Path, text: str, name: str = "data") -> Place:
    place = Place(name, directory)
    place.file.write_text(text)
    place.file.chmod(0o644)
    return place


def keys(directory: Path, text: str = "AK:SK\n", name: str = "data") -> str:
    path = directory / f"{name}.passwd"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def built(home: Path, *argv: str) -> Options:
    return complete.build(tokenise(argv), {"XDG_CONFIG_HOME": str(home.parent), "HOME": "/none"})


class TestCommandLine:
    def test_a_bare_name_is_a_dataset_only_if_there_is_one(self, home: Path) -> None:
        assert built(home, "data", "/m").bucket == "data"
        write(home, 'bucket = "b"\nprefix = "p"\nurl = "https://h"\noptions = ["uid=7"]\n')
        options = built(home, "data", "/m")
        assert (options.bucket, options.prefix, options.url) == ("b", "p/", "https://h")
        assert (options.uid, options.spec) == (7, "data")
        (remark,) = options.remarks
        assert remark.endswith("data.toml; a bucket of this name is written data:")

    @pytest.mark.parametrize("text", ["data:", "data:/", "s3://data", "s3://data/"])
    def test_the_bucket_of_the_same_name(self, home: Path, text: str) -> None:
        write(home, 'bucket = "b"\noptions = ["uid=7"]\n')
        options = built(home, text, "/m")
        assert (options.bucket, options.prefix, options.uid) == ("data", "", None)
        assert options.remarks == ()
        assert complete.bucket_of(text, {"XDG_CONFIG_HOME": str(home.parent)}) == "data"

    def test_a_path_in_it(self, home: Path) -> None:
        write(home, 'bucket = "b"\nprefix = "p"\n')
        options = built(home, "dataset://data/x/y", "/m")
        assert (options.bucket, options.prefix) == ("b", "p/x/y/")
        assert options.spec == "dataset://data/x/y"
        with pytest.raises(ParseError, match=r"'\.' and '\.\.' cannot"):
            built(home, "dataset://data/../x", "/m")

    def test_an_explicit_one_must_exist(self, home: Path) -> None:
        with pytest.raises(ParseError, match=r"there is no data\.toml in .*config.* or .*etc"):
            built(home, "dataset://data", "/m")
        with pytest.raises(ParseError, match="write dataset://NAME"):
            built(home, "dataset://../etc", "/m")

    @pytest.mark.needs_root("writes what is root's")
    def test_the_user_beats_the_machine(self, home: Path) -> None:
        write(datasets.ETC, 'bucket = "of-all"\n')
        assert built(home, "data", "/m").bucket == "of-all"
        write(home, 'bucket = "mine"\n')
        assert built(home, "data", "/m").bucket == "mine"
        (place,) = datasets.every({"XDG_CONFIG_HOME": str(home.parent)})
        assert place.directory == home

    def test_without_xdg(self, home: Path) -> None:
        assert datasets.user_directory({"HOME": "/h"}) == Path("/h/.config/bucketfs")
        environ = {"HOME": "/h", "XDG_CONFIG_HOME": "relative"}
        assert datasets.user_directory(environ) == Path("/h/.config/bucketfs")

    def test_the_command_line_wins(self, home: Path) -> None:
        text = 'bucket = "b"\nurl = "https://h"\n'
        write(home, text + 'options = ["ro", "uid=7", "free_space_ratio=5", "iam_role"]\n')
        words = "url=http://other,uid=8,rw,ensure_diskfree=100,passwd_file=/none"
        words = words.replace("/none", keys(home, name="other"))
        options = built(home, "data", "/m", "-o", words)
        assert (options.url, options.uid, options.read_only) == ("http://other", 8, False)
        assert (options.ensure_diskfree, options.free_space_ratio) == (100 << 20, 10)
        assert not options.iam_role

    def test_wrong_ones_are_named(self, home: Path) -> None:
        place = write(home, 'bucket = "b"\nbucke = 1\n')
        with pytest.raises(ParseError, match=f"^{place.file}: bucke: unknown name"):
            built(home, "data", "/m")


class TestKeys:
    def test_beside_the_dataset(self, home: Path) -> None:
        write(home, 'bucket = "b"\n')
        assert built(home, "data", "/m").passwd_file is None
        path = keys(home)
        assert built(home, "data", "/m").passwd_file == path

    def test_where_the_dataset_says(self, home: Path) -> None:
        write(home, 'bucket = "b"\npasswd_file = "other.passwd"\n')
        keys(home)
        path = keys(home, name="other")
        assert built(home, "data", "/m").passwd_file == path

    @pytest.mark.needs_root("writes what is root's")
    def test_the_users_own_for_the_dataset_of_all(self, home: Path) -> None:
        write(datasets.ETC, 'bucket = "b"\n')
        path = keys(datasets.ETC)
        assert built(home, "data", "/m").passwd_file == path
        path = keys(home)
        assert built(home, "data", "/m").passwd_file == path

    @pytest.mark.needs_root("writes what is root's")
    def test_those_of_root_are_not_for_users(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(datasets.ETC, 'bucket = "b"\n')
        keys(datasets.ETC)
        monkeypatch.setattr(os, "access", lambda *_: False)
        options = built(home, "data", "/m")
        assert options.passwd_file is None
        assert "is not for this user; keys are looked for" in options.remarks[1]

    @pytest.mark.parametrize("words", ["public_bucket=1", "iam_role", "profile=x"])
    def test_others_on_the_command_line(self, home: Path, words: str) -> None:
        write(home, 'bucket = "b"\npasswd_file = "none"\n')
        assert built(home, "data", "/m", "-o", words).passwd_file is None

    def test_address_of_a_json_file(self, home: Path) -> None:
        text = '{"accessKeyID": "A", "secretAccessKey": "S", "endpoint": "h", "bucket": "other"}'
        write(home, 'bucket = "b"\n')
        keys(home, text)
        options = built(home, "data", "/m")
        assert (options.bucket, options.url) == ("b", "https://h")
        write(home, 'bucket = "b"\nurl = "http://of-the-dataset"\n')
        assert built(home, "data", "/m").url == "http://of-the-dataset"


class TestWhose:
    @pytest.mark.parametrize("mode", [0o664, 0o646])
    def test_what_others_can_write(self, home: Path, mode: int) -> None:
        place = write(home, 'bucket = "b"\n')
        place.file.chmod(mode)
        with pytest.raises(
            DatasetError, match=f"can be written by others.* chmod go-w {place.file}"
        ):
            datasets.read(place)

    def test_a_directory_that_others_can_write(self, home: Path) -> None:
        place = write(home, 'bucket = "b"\n')
        home.chmod(0o777)
        with pytest.raises(DatasetError, match=f"{home} can be written by other users"):
            datasets.read(place)

    @pytest.mark.needs_root("gives files away")
    def test_of_another_user(self, home: Path) -> None:
        for directory in (home, datasets.ETC):
            place = write(directory, 'bucket = "b"\n')
            os.chown(place.file, 12345, 12345)
            with pytest.raises(DatasetError, match=f"another user.* chown 0 {place.file}"):
                datasets.read(place)

    @pytest.mark.needs_root("gives files away")
    def test_that_of_the_machine_is_roots_for_everybody(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = write(datasets.ETC, 'bucket = "b"\n')
        os.chown(place.file, 12345, 12345)
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(DatasetError, match="run: chown 0 "):
            datasets.read(place)

    def test_a_link_is_followed_and_its_end_looked_at(self, home: Path, tmp_path: Path) -> None:
        real = write(tmp_path, 'bucket = "b"\n', "real")
        place = Place("data", home)
        place.file.symlink_to(real.file)
        assert datasets.read(place) == Dataset("b")
        real.file.chmod(0o666)
        with pytest.raises(DatasetError, match=f"chmod go-w {real.file}"):
            datasets.read(place)

    def test_no_file(self, home: Path) -> None:
        place = Place("data", home)
        os.mkfifo(place.file, 0o644)
        with pytest.raises(DatasetError, match="is not a regular file"):
            datasets.read(place)


class TestWriting:
    def test_whole_or_not_at_all(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        place = Place("data", home)

        def fails(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="No space left"):
            datasets.write(place, Dataset("b"), "AK:SK", replace=False)
        assert list(home.iterdir()) == []

    def test_modes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets, "ETC", tmp_path / "etc")
        mask = os.umask(0o077)
        try:
            place = Place("data", datasets.ETC)
            datasets.write(place, Dataset("b"), "AK:SK", replace=False)
        finally:
            os.umask(mask)
        modes = [path.stat().st_mode & 0o777 for path in (place.directory, place.file, place.keys)]
        assert modes == [0o755, 0o644, 0o600]

    def test_nothing_is_replaced_unasked(self, home: Path) -> None:
        place = Place("data", home)
        datasets.write(place, Dataset("b"), "AK:SK", replace=False)
        with pytest.raises(FileExistsError):
            datasets.write(place, Dataset("c"), "AK:XX", replace=False)
        assert (datasets.read(place), place.keys.read_text()) == (Dataset("b"), "AK:SK")
        place.file.unlink()
        with pytest.raises(FileExistsError):
            datasets.write(place, Dataset("c"), "AK:XX", replace=False)
        assert not place.file.exists()
        datasets.write(place, Dataset("c"), "AK:XX", replace=True)
        assert (datasets.read(place), place.keys.read_text()) == (Dataset("c"), "AK:XX")
        assert sorted(path.name for path in home.iterdir()) == ["data.passwd", "data.toml"]


def test_keys_that_are_not_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    typed = io.TextIOWrapper(io.BytesIO(b"a:b\xff"), errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", typed)
    with pytest.raises(Failure, match="is not UTF-8"):
        dataset.run(["add", "x", "bucket", "--keys", "-"])
    assert list(tmp_path.rglob("x*")) == []
