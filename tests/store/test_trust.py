"""Certificates: who names those to believe, what is wrong with a file, a real TLS server."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.cli.options import bucket as store_options
from bucketfs.cli.options.trust import with_ca_bundle
from bucketfs.credentials import StaticKeys
from bucketfs.errors import NoAnswer
from bucketfs.options import Options
from bucketfs.store.config import StoreConfig
from bucketfs.store.opening import open_store
from tests.harness.endpoint import Endpoint
from tests.harness.proxy import Proxy, proxy
from tests.harness.witness import Witness

VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
OPTIONS = Options(bucket="b", mountpoint="/m", url="https://h")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def bundle(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the authority's certificate, in the working directory; nobody names another."""
    for name in (*VARIABLES, "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


class TestWhoNamesIt:
    def test_order(self, bundle: Path, tmp_path: Path) -> None:
        for name in ("option", "profile", *VARIABLES):
            (tmp_path / name).write_bytes(bundle.read_bytes())
        (tmp_path / "config").write_text(f"[default]\nca_bundle = {tmp_path / 'profile'}\n")
        environ = {name: str(tmp_path / name) for name in VARIABLES}
        options = replace(OPTIONS, ca_bundle="option")
        for name in ("option", "AWS_CA_BUNDLE", "profile", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            assert with_ca_bundle(options, environ).ca_bundle == str(tmp_path / name)
            options = replace(options, ca_bundle=None)
            environ.pop(name, None)
            if name == "profile":
                (tmp_path / "config").unlink()
        assert with_ca_bundle(options, environ).ca_bundle is None
        assert with_ca_bundle(options, {"CURL_CA_BUNDLE": ""}).ca_bundle is None

    def test_of_a_named_profile(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "config").write_text(f"[profile p]\nca_bundle = {bundle}\n")
        assert with_ca_bundle(OPTIONS, {}).ca_bundle is None
        assert with_ca_bundle(replace(OPTIONS, profile="p"), {}).ca_bundle == str(bundle)

    def test_the_daemon_gets_an_absolute_path(self, bundle: Path) -> None:
        found = with_ca_bundle(OPTIONS, {"CURL_CA_BUNDLE": bundle.name})
        assert found.ca_bundle == str(bundle)
        assert store_options.store_config(found, KEYS, lambda: KEYS).verify == str(bundle)

    def test_a_directory_of_them(self, tmp_path: Path) -> None:
        """As `REQUESTS_CA_BUNDLE` may name one."""
        found = with_ca_bundle(OPTIONS, {"REQUESTS_CA_BUNDLE": str(tmp_path)})
        assert found.ca_bundle == str(tmp_path)

    def test_plain_http_needs_none(self) -> None:
        plain = replace(OPTIONS, url="http://h")
        assert with_ca_bundle(plain, {"CURL_CA_BUNDLE": "/gone"}).ca_bundle is None
        with pytest.raises(Failure, match="No such file"):
            with_ca_bundle(replace(plain, ca_bundle="/gone"), {})

    def test_without_check_there_is_none(self) -> None:
        trusting = replace(OPTIONS, no_check_certificate=True)
        assert with_ca_bundle(trusting, {"CURL_CA_BUNDLE": "/gone"}) == trusting


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        ("", "holds no certificate in PEM format"),
        ("no certificate\n", "holds no certificate in PEM format"),
        (
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            "holds no certificate in PEM format",
        ),
    ],
)
@pytest.mark.parametrize("where", ["ca_bundle", *VARIABLES])
def test_what_is_wrong_is_one_line(
    tmp_path: Path, where: str, content: str | None, said: str
) -> None:
    path = tmp_path / "wrong"
    if content is not None:
        path.write_text(content)
    options, environ = OPTIONS, {where: str(path)}
    if where == "ca_bundle":
        options, environ = replace(OPTIONS, ca_bundle=str(path)), {}
    with pytest.raises(Failure) as caught:
        with_ca_bundle(options, environ)
    assert caught.value.line == f"{where}={path}: {said}"
    assert caught.value.code is ExitCode.USAGE


KEYS = StaticKeys("AK", "SK")


@pytest.fixture
def guarded(endpoint: Endpoint, authority: trustme.CA) -> Iterator[Proxy]:
    """The endpoint behind https, with a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with proxy(endpoint.url, context) as running:
        yield running


def config_for(guarded: Proxy, bucket: Witness, verify: bool | str) -> StoreConfig:
    keys = StaticKeys(bucket.endpoint.access_key, bucket.endpoint.secret_key)
    return StoreConfig(
        bucket.name, keys, url=guarded.url, path_style=True, verify=verify, read_only=True
    )


async def test_an_authority_of_ones_own(guarded: Proxy, bucket: Witness, bundle: Path) -> None:
    bucket.put("key", b"content")
    async with open_store(config_for(guarded, bucket, str(bundle))) as store:
        assert (await store.head("key")).size == 7


@pytest.mark.parametrize("kind", ["the system's", "of another", "a directory without it"])
async def test_who_is_not_believed(
    guarded: Proxy, bucket: Witness, tmp_path: Path, kind: str
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other")
    verify = {"of another": str(tmp_path / "other"), "a directory without it": str(tmp_path)}
    async with open_store(config_for(guarded, bucket, verify.get(kind, True))) as store:
        with pytest.raises(NoAnswer) as caught:
            await store.head("key")
    assert caught.value.code == "TlsFailed"
    assert not guarded.requests
