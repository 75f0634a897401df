"""The region that a host name says, and who overrules it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucketfs.credentials import Anonymous
from bucketfs.store.aws.connection import connect
from bucketfs.store.config import StoreConfig
from bucketfs.store.region import region_in

IBM = "cloud-object-storage.appdomain.cloud"
OLD_IBM = "objectstorage.softlayer.net"

NAMES = {
    f"s3.us-south.{IBM}": "us-south",
    f"s3.private.us-south.{IBM}": "us-south",
    f"s3.direct.eu-de.{IBM}": "eu-de",
    f"s3.us.{IBM}": "us",
    f"s3.dal.us.{IBM}": "us",
    f"s3.private.fra.eu.{IBM}": "eu",
    f"s3.ams03.{IBM}": "ams03",
    f"s3-api.us-geo.{OLD_IBM}": "us-geo",
    f"s3-api.dal-us-geo.{OLD_IBM}": "us-geo",
    f"s3.eu-gb.{OLD_IBM}": "eu-gb",
    "s3-api.us-geo.objectstorage.service.networklayer.com": "us-geo",
    "s3.eu-west-1.amazonaws.com": "eu-west-1",
    "s3-us-west-2.amazonaws.com": "us-west-2",
    "s3.dualstack.us-gov-west-1.amazonaws.com": "us-gov-west-1",
    "s3-fips.us-east-2.amazonaws.com": "us-east-2",
    "s3.cn-north-1.amazonaws.com.cn": "cn-north-1",
    "s3.eusc-de-east-1.amazonaws.eu": "eusc-de-east-1",
    "bucket.vpce-0a1b-2c3d.s3.us-east-2.vpce.amazonaws.com": "us-east-2",
    "s3-external-1.amazonaws.com": "us-east-1",
    "s3.wasabisys.com": "us-east-1",
    "s3.eu-central-2.wasabisys.com": "eu-central-2",
    "s3.us-west-004.backblazeb2.com": "us-west-004",
    "s3.fr-par.scw.cloud": "fr-par",
    "nyc3.digitaloceanspaces.com": "nyc3",
    "fsn1.your-objectstorage.com": "fsn1",
    "s3.gra.io.cloud.ovh.net": "gra",
    "s3.eu-west-par.io.cloud.ovh.net": "eu-west-par",
    "s3.us-east-va.io.cloud.ovh.us": "us-east-va",
    "s3.eu-central-1.ionoscloud.com": "de",
    "s3.eu-south-2.ionoscloud.com": "eu-south-2",
    "obs.cn-north-4.myhuaweicloud.com": "cn-north-4",
    "cos.ap-guangzhou.myqcloud.com": "ap-guangzhou",
    "oos.eu-west-2.outscale.com": "eu-west-2",
    "s3-cn-east-1.qiniucs.com": "cn-east-1",
    "s3.ru-1.storage.selcloud.ru": "ru-1",
    "us-east.object.fastlystorage.app": "us-east",
    "eu-central-2.storage.impossibleapi.net": "eu-central-2",
    "eu-001.s3.synologyc2.net": "eu-001",
    "account.r2.cloudflarestorage.com": "auto",
}
SILENT = (
    "",
    "localhost",
    "10.0.0.1",
    "s3.example.org",
    "s3.us-south.example.org",
    "s3.amazonaws.com",
    "s3.dualstack.amazonaws.com",
    "s3-accelerate.amazonaws.com",
    "s3.eu-west-1.amazonaws.com.example.org",
    "evils3.eu-west-1.amazonaws.com",
    "storage.googleapis.com",
    "gateway.storjshare.io",
    "cos.accelerate.myqcloud.com",
    "s3.us-east-1-dell-obs.wasabisys.com",
    f"s3.{IBM}",
)


@pytest.mark.parametrize(("host", "region"), NAMES.items())
def test_of_a_name(host: str, region: str) -> None:
    assert region_in(host) == region


@pytest.mark.parametrize("host", SILENT)
def test_of_no_name(host: str) -> None:
    assert region_in(host) is None


@pytest.mark.parametrize(
    ("given", "host", "configured", "region"),
    [
        (None, f"S3.Private.US-South.{IBM}:443", "eu-west-1", "us-south"),
        ("mine", f"s3.us-south.{IBM}", "eu-west-1", "mine"),
        (None, "s3.example.org", "eu-west-1", "eu-west-1"),
        (None, "s3.example.org", "", "us-east-1"),
    ],
)
async def test_who_overrules_whom(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    host: str,
    configured: str,
    region: str,
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    if configured:
        monkeypatch.setenv("AWS_DEFAULT_REGION", configured)
    config = StoreConfig("b", Anonymous(), url=f"https://{host}", region=given)
    async with connect(config) as connection:
        assert connection.client.meta.region_name == region
