"""Keys: s3fs's file format with every way to get it wrong, and the order of the sources."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketfs import credentials as module
from bucketfs.credentials import (
    Anonymous,
    Chain,
    CredentialsError,
    StaticKeys,
    buckets_with_keys,
    keys_from_environment,
    read_key_file,
    read_passwd_file,
    resolve,
)
from bucketfs.options import Options
from bucketfs.passwd import (
    KeyPair,
    PasswdError,
    buckets_named,
    parse_passwd,
    permission_fault,
)

SECRET = "hush-hush-secret"


def options(**more: object) -> Options:
    return Options(bucket="bucket", mountpoint="/mnt", **more)  # type: ignore[arg-type]


class TestFormat:
    @pytest.mark.parametrize(
        ("text", "keys"),
        [
            ("AK:SK", ("AK", "SK")),
            ("AK:SK\n", ("AK", "SK")),
            ("\ufeffAK:SK", ("AK", "SK")),
            ("  AK:SK\t\r\n", ("AK", "SK")),
            ("# one\n\n#two words\nAK:SK", ("AK", "SK")),
            ("neither\nAK:SK", ("AK", "SK")),
            ("bucket:AK:SK", ("AK", "SK")),
            ("DEF:AULT\nbucket:AK:SK\nother:X:Y", ("AK", "SK")),
            ("other:X:Y\nAK:SK", ("AK", "SK")),
            ("bucket:AK:SK:TOKEN", ("AK:SK", "TOKEN")),
            ("AK:S/K+x==", ("AK", "S/K+x==")),
            ("AWSAccessKeyId=AK\nAWSSecretKey=S=K", ("AK", "S=K")),
            ("bucket:X:Y\nAWSAccessKeyId=AK\nAWSSecretKey=SK", ("AK", "SK")),
            ("AWSAccessKeyId=AK\nAWSAccessKeyId=XX\nAWSSecretKey=SK", ("AK", "SK")),
        ],
    )
    def test_right(self, text: str, keys: tuple[str, str]) -> None:
        pair = parse_passwd(text, "bucket")
        assert (pair.access_key, pair.secret_key) == keys

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (f"AK:{SECRET} x", "found whitespace character (line 1)"),
            (f"#\nA K:{SECRET}", "found whitespace character (line 2)"),
            ("[default]\n", 'found a bracket "[" character (line 1)'),
            (f"AK:{SECRET}\nAK2:{SECRET}", "same bucket(default)"),
            (f"bucket:A:{SECRET}\nbucket:B:{SECRET}", "same bucket(bucket)"),
            (f"other:A:{SECRET}", "Not found access key/secret key in passwd file"),
            ("", "Not found access key/secret key in passwd file"),
            (f":{SECRET}", "failed to set internal data"),
            ("AK:", "failed to set internal data"),
            ("AWSAccessKeyId=AK", "AWSAccesskey or AWSSecretkey is not specified"),
            (f"AWSSecretKey={SECRET}", "AWSAccesskey or AWSSecretkey is not specified"),
        ],
    )
    def test_wrong(self, text: str, words: str) -> None:
        with pytest.raises(PasswdError) as caught:
            parse_passwd(text, "bucket")
        line = str(caught.value)
        assert words in line
        assert SECRET not in line
        assert "\n" not in line

    @given(st.text())
    def test_any_text_gives_keys_or_one_line(self, text: str) -> None:
        with contextlib.suppress(PasswdError):
            pair = parse_passwd(text, "bucket")
            assert bool(pair.access_key) == bool(pair.secret_key)

    WORD = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)

    @given(WORD, WORD, WORD, WORD)
    def test_bucket_beats_default(self, a: str, b: str, c: str, d: str) -> None:
        for text in (f"{a}:{b}\nbucket:{c}:{d}", f"bucket:{c}:{d}\n{a}:{b}"):
            assert parse_passwd(text, "bucket") == KeyPair(c, d)
            assert parse_passwd(text, "elsewhere") == KeyPair(a, b)


class TestBuckets:
    """Those that have a line of their own."""

    def test_named(self) -> None:
        assert buckets_named("AK:SK\nb:A:B\n# c:A:B\nd:A:B\n") == ["b", "d"]
        assert buckets_named("AK:SK") == []
        assert buckets_named("b:A:B\nAWSAccessKeyId=x\nAWSSecretKey=y") == []

    def test_of_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "passwd"
        path.touch(0o600)
        path.write_text("AK:SK\nb:A:B\n")
        assert buckets_with_keys(read_passwd_file(str(path), "")) == ["b"]
        path.write_text('{"accessKeyID": "A", "secretAccessKey": "B", "bucket": "b"}')
        assert buckets_with_keys(read_passwd_file(str(path), "")) == []
        assert buckets_with_keys(StaticKeys("A", "B", source="environment")) == []
        assert buckets_with_keys(Chain()) == []
        path.write_text("a b")
        with pytest.raises(CredentialsError, match="whitespace"):
            buckets_with_keys(StaticKeys("A", "B", source=str(path)))

    def test_only_of_single_ones(self, tmp_path: Path) -> None:
        path = tmp_path / "passwd"
        path.touch(0o600)
        path.write_text("b:A:B\nc:C:D\n")
        found = read_passwd_file(str(path), "")
        assert found == Anonymous(str(path))
        assert buckets_with_keys(found) == ["b", "c"]
        with pytest.raises(CredentialsError, match="no line for bucket d"):
            read_passwd_file(str(path), "d")
        path.write_text("# none\n")
        with pytest.raises(CredentialsError, match="no default line"):
            read_passwd_file(str(path), "")

    def test_no_keys_for_all(self) -> None:
        with pytest.raises(PasswdError, match="passwd file: no default line"):
            parse_passwd("b:A:B", "")


class TestPermissions:
    @pytest.mark.parametrize(
        ("mode", "words"),
        [
            (0o600, None),
            (0o400, None),
            (0o604, "others permissions"),
            (0o602, "others permissions"),
            (0o640, "group permissions"),
            (0o700, "executable permissions"),
        ],
    )
    def test_anywhere(self, mode: int, words: str | None) -> None:
        fault = permission_fault("/x", mode)
        assert fault is None if words is None else words in (fault or "")

    @pytest.mark.parametrize(
        ("mode", "words"),
        [
            (0o640, None),
            (0o600, None),
            (0o660, "group writable permissions"),
            (0o650, "executable permissions"),
            (0o644, "others permissions"),
        ],
    )
    def test_in_etc(self, mode: int, words: str | None) -> None:
        fault = permission_fault("/etc/passwd-s3fs", mode)
        assert fault is None if words is None else words in (fault or "")


@pytest.fixture
def passwd(tmp_path: Path) -> Path:
    path = tmp_path / "passwd"
    path.write_text(f"AK:{SECRET}\n")
    path.chmod(0o600)
    return path


def access_key_in(path: Path) -> str:
    found = read_passwd_file(str(path), "bucket")
    assert isinstance(found, StaticKeys)
    return found.access_key


class TestFile:
    def test_read(self, passwd: Path) -> None:
        keys = read_passwd_file(str(passwd), "bucket")
        assert keys == StaticKeys("AK", SECRET, source=str(passwd))
        assert SECRET not in repr(keys)

    @pytest.mark.parametrize("text", [":", "bucket::\nAK:S", "AWSAccessKeyId=\nAWSSecretKey="])
    def test_empty_keys_sign_nothing(self, passwd: Path, text: str) -> None:
        passwd.write_text(text)
        assert read_passwd_file(str(passwd), "bucket") == Anonymous(source=str(passwd))

    def test_missing(self) -> None:
        with pytest.raises(
            CredentialsError, match=r"stat\(/none\): No such file .*; check passwd_file="
        ):
            read_passwd_file("/none", "bucket")

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(CredentialsError, match="not a regular file"):
            read_passwd_file(str(tmp_path), "bucket")

    def test_open_to_others(self, passwd: Path) -> None:
        passwd.chmod(0o644)
        with pytest.raises(CredentialsError, match=f"run: chmod 600 {passwd}"):
            read_passwd_file(str(passwd), "bucket")

    def test_unreadable(self, passwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(CredentialsError, match="is not readable: Permission denied"):
            read_passwd_file(str(passwd), "bucket")

    def test_what_is_looked_at_is_what_is_read(
        self, passwd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loose, look = tmp_path / "loose", os.stat
        loose.write_text("THEIRS:SECRET\n")

        def then_replaced(path: str, **more: bool) -> os.stat_result:
            found = look(path, **more)
            if path == str(passwd) and loose.exists():
                loose.replace(passwd)
            return found

        monkeypatch.setattr(os, "stat", then_replaced)
        assert access_key_in(passwd) == "AK"

    def test_not_utf8(self, passwd: Path) -> None:
        passwd.write_bytes(b"# caf\xe9\nAK:SK\n")
        assert access_key_in(passwd) == "AK"

    def test_errors_name_the_file(self, passwd: Path) -> None:
        passwd.write_text("[x]")
        with pytest.raises(CredentialsError, match=f"^{passwd}: invalid line"):
            read_passwd_file(str(passwd), "bucket")

    def test_json(self, passwd: Path) -> None:
        passwd.write_text(
            '{"accessKeyID": "AK", "secretAccessKey": "SK", "sessionToken": "T", "bucket": "b"}'
        )
        keys = read_passwd_file(str(passwd), "other")
        assert keys == StaticKeys("AK", "SK", "T", source=str(passwd))

    def test_json_without_keys(self, passwd: Path) -> None:
        passwd.write_text('{"accessKeyID": "", "secretAccessKey": ""}')
        assert read_passwd_file(str(passwd), "bucket") == Anonymous()

    def test_json_has_the_same_rights(self, passwd: Path) -> None:
        passwd.write_text('{"accessKeyID": "AK", "secretAccessKey": "SK"}')
        passwd.chmod(0o640)
        with pytest.raises(CredentialsError, match=f"run: chmod 600 {passwd}"):
            read_key_file(str(passwd))

    def test_wrong_json_names_the_file(self, passwd: Path) -> None:
        passwd.write_text(f'{{"accessKeyID": "{SECRET}"}}')
        with pytest.raises(CredentialsError) as caught:
            read_key_file(str(passwd))
        line = str(caught.value)
        assert line.startswith(f'{passwd}: the JSON has no "secretAccessKey"')
        assert SECRET not in line


class TestEnvironment:
    def test_both_spellings(self) -> None:
        new = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S", "AWS_SESSION_TOKEN": "T"}
        old = {"AWSACCESSKEYID": "A", "AWSSECRETACCESSKEY": "S", "AWSSESSIONTOKEN": "T"}
        expected = StaticKeys("A", "S", "T", source="environment")
        assert keys_from_environment(new, need_token=True) == expected
        assert keys_from_environment(old, need_token=True) == expected
        assert keys_from_environment({}, need_token=False) is None

    @pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWSSECRETACCESSKEY"])
    def test_half_a_pair(self, name: str) -> None:
        with pytest.raises(CredentialsError, match="must be set together"):
            keys_from_environment({name: "x"}, need_token=False)

    def test_token_required(self) -> None:
        pair = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S"}
        with pytest.raises(CredentialsError, match="AWS_SESSION_TOKEN is not set"):
            keys_from_environment(pair, need_token=True)


class TestOrder:
    """Each source is found when all before it are missing."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(module, "ETC_PASSWD", str(tmp_path / "etc-passwd-s3fs"))
        monkeypatch.setattr(module, "home_directories", lambda _: (str(tmp_path),))
        return tmp_path

    @staticmethod
    def write(path: Path, text: str) -> str:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def test_public(self) -> None:
        environ = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S"}
        assert resolve(options(public_bucket=True), environ) == Anonymous()

    def test_named_file_beats_environment_and_is_fatal(self, passwd: Path) -> None:
        environ = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S"}
        found = resolve(options(passwd_file=str(passwd)), environ)
        assert isinstance(found, StaticKeys)
        assert found.access_key == "AK"
        with pytest.raises(CredentialsError):
            resolve(options(passwd_file="/none"), environ)

    def test_environment_beats_files(self, home: Path) -> None:
        self.write(home / ".passwd-s3fs", "AK:SK")
        environ = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S"}
        found = resolve(options(), environ)
        assert isinstance(found, StaticKeys)
        assert found.source == "environment"

    def test_file_named_by_the_environment(self, passwd: Path) -> None:
        found = resolve(options(), {"AWS_CREDENTIAL_FILE": str(passwd)})
        assert isinstance(found, StaticKeys)
        assert found.source == str(passwd)

    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("credentials", "[default]\naws_access_key_id = A\naws_secret_access_key = S\n"),
            ("config", "[default]\nsso_session = work\n"),
            ("config", "[default]\nregion = x\ncredential_process = /bin/keys\n"),
            ("config", "no section, so the AWS library may complain\n"),
        ],
    )
    def test_aws_configuration_beats_the_password_file(
        self, home: Path, file: str, text: str
    ) -> None:
        self.write(home / ".passwd-s3fs", "AK:SK")
        self.write(home / ".aws" / file, text)
        assert resolve(options(), {}) == Chain()

    def test_a_configuration_without_keys_does_not(self, home: Path) -> None:
        self.write(home / ".passwd-s3fs", "AK:SK")
        self.write(home / ".aws" / "config", "[default]\nregion = eu-west-1\n")
        assert isinstance(resolve(options(), {}), StaticKeys)

    def test_home_then_etc(self, home: Path) -> None:
        self.write(home / "etc-passwd-s3fs", "ETC:SK")
        found = resolve(options(), {})
        assert isinstance(found, StaticKeys)
        assert found.access_key == "ETC"
        self.write(home / ".passwd-s3fs", "HOME:SK")
        found = resolve(options(), {})
        assert isinstance(found, StaticKeys)
        assert found.access_key == "HOME"

    def test_a_bad_file_at_home_is_fatal(self, home: Path) -> None:
        self.write(home / "etc-passwd-s3fs", "ETC:SK")
        os.chmod(self.write(home / ".passwd-s3fs", "HOME:SK"), 0o644)
        with pytest.raises(CredentialsError, match="others permissions"):
            resolve(options(), {})

    def test_nothing_leaves_the_metadata_service(self) -> None:
        assert resolve(options(), {}) == Chain()

    @pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"])
    def test_environment_of_the_aws_library(self, home: Path, name: str) -> None:
        self.write(home / ".passwd-s3fs", "AK:SK")
        assert resolve(options(), {name: "x"}) == Chain()

    def test_profile(self, home: Path) -> None:
        self.write(home / ".aws" / "config", "[profile work]\nrole_arn = x\n")
        environ = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "S"}
        assert resolve(options(profile="work"), environ) == Chain("work")
        with pytest.raises(CredentialsError, match="Could not find profile: play"):
            resolve(options(profile="play"), environ)

    def test_role(self, home: Path) -> None:
        self.write(home / ".passwd-s3fs", "AK:SK")
        assert resolve(options(iam_role=True), {}) == Chain()


def test_home_does_not_hang_on_the_environment() -> None:
    assert module.home_directories({}) != ()
    assert module.home_directories({"HOME": "/h"})[0] == "/h"
