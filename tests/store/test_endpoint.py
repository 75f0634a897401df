"""The endpoint that the environment and the AWS configuration name, in the SDKs' order."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucketfs.cli.failure import Failure
from bucketfs.cli.options.bucket import with_endpoint
from bucketfs.errors import StoreError
from bucketfs.options import Options
from bucketfs.store.aws.endpoint import configured_url

URL = "https://s3.example.org"
FILE = """
[default]
endpoint_url = https://default.example.org
[profile work]
services = own
endpoint_url = https://profile.example.org
[profile plain]
region = eu-1
[profile off]
endpoint_url = https://off.example.org
ignore_configured_endpoint_urls = true
[services own]
s3 =
  endpoint_url = https://service.example.org
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config"
    path.write_text(FILE)
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.parametrize(
    ("profile", "environ", "url"),
    [
        (None, {}, "https://default.example.org"),
        ("work", {}, "https://service.example.org"),
        ("plain", {}, None),
        ("off", {}, None),
        ("work", {"AWS_ENDPOINT_URL": URL}, URL),
        (None, {"AWS_ENDPOINT_URL": "http://other", "AWS_ENDPOINT_URL_S3": URL}, URL),
        (None, {"AWS_ENDPOINT_URL": URL, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, None),
    ],
)
def test_order(profile: str | None, environ: dict[str, str], url: str | None) -> None:
    found = configured_url(profile, environ)
    assert (found[0] if found else None) == url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # botocore ends in an AttributeError
        ("services = my\n[services my]\ns3 =\nendpoint_url = U", r"\[services my\]: indent"),
        ("services = my\n[services my]\ns3 = U", r"\[services my\]: indent"),
        # botocore goes to Amazon
        ("services = my\n[services my]\nendpoint_url = U", r"\[services my\]: indent"),
        ("s3 =\n  endpoint_url = U", "below s3 = of a profile means nothing"),
        ("region = r\n[services]\ns3 =\n  endpoint_url = U", r"\[services\] has no name"),
        ("region = r\n[services]\nendpoint_url = U", r"\[services\] has no name"),
        # botocore refuses it when the client is made
        ("services = gone\nendpoint_url = U", r"\[services gone\], which does not exist;"),
        (
            "services = my\n[services]\ns3 =\n  endpoint_url = U",
            "exist, and .services. has no name",
        ),
        ("services = my\n  [services my]\n  s3 =\n    endpoint_url = U", "must be one name"),
        ("services =\n  s3 =\n    endpoint_url = U", "must be one name"),
        ("services = my\n[services my]\ns3 =\n  endpoint_url", "Unable to parse config file"),
    ],
)
def test_what_means_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "config").write_text(f"[default]\n{text.replace('U', URL)}\n")
    with pytest.raises(StoreError, match=said) as caught:
        configured_url(None, {})
    assert "\n" not in (caught.value.message or "")
    named = Options(bucket="b", mountpoint="/m", url=URL)
    assert with_endpoint(named, {}).url == URL


@pytest.mark.parametrize(
    "text",
    [
        "region = r\n[services]\ndynamodb =\n  region = r",
        "services = my\n[services my]\ndynamodb =\n  endpoint_url = http://d",
        "s3 =\n  addressing_style = path",
    ],
)
def test_other_services_are_none_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(f"[default]\n{text}\n")
    assert configured_url(None, {}) is None


def test_no_file_is_no_endpoint(tmp_path: Path) -> None:
    (tmp_path / "config").unlink()
    assert configured_url(None, {}) is None


def test_options_follow() -> None:
    options = Options(bucket="b", mountpoint="/m", profile="work")
    assert with_endpoint(options, {}).url == "https://service.example.org"
    named = Options(bucket="b", mountpoint="/m", profile="work", url=URL)
    assert with_endpoint(named, {"AWS_ENDPOINT_URL": "http://other"}).url == URL


def test_what_is_no_address_is_named() -> None:
    options = Options(bucket="b", mountpoint="/m")
    with pytest.raises(Failure, match=r"AWS_ENDPOINT_URL: 's3.example.org' must begin"):
        with_endpoint(options, {"AWS_ENDPOINT_URL": "s3.example.org"})
    with pytest.raises(Failure, match=r"profile.*nobody"):
        with_endpoint(Options(bucket="b", mountpoint="/m", profile="nobody"), {})
