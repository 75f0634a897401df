"""Keys as stores hand them out: the JSON file alone says what is to be mounted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import Place
from tests.system.test_command import one_line


def written(place: Place, **more: Any) -> str:
    """A file of the place's keys, bucket and endpoint; its name says nothing of JSON."""
    keys = {
        "accessKeyID": place.bucket.endpoint.access_key,
        "secretAccessKey": place.bucket.endpoint.secret_key,
        "endpoint": place.bucket.endpoint.url,
        "bucket": place.bucket.name,
    }
    return rewritten(place, {**keys, **more})


def rewritten(place: Place, found: Any) -> str:
    place.passwd.write_text(json.dumps(found))
    return str(place.passwd)


def without_url(place: Place) -> str:
    return place.options.replace(f"url={place.bucket.endpoint.url},", "")


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"s3": d}], ids=["bare", "s3"])
def test_the_file_says_all(place: Place, wrap: Any) -> None:
    place.bucket.put("file", b"content")
    rewritten(place, wrap(json.loads(Path(written(place)).read_text())))
    done = place.run(str(place.path), "-o", without_url(place))
    assert (done.returncode, done.stderr) == (0, "")
    assert (place.path / "file").read_bytes() == b"content"
    (place.path / "new").write_bytes(b"mine")
    assert place.run("umount", str(place.path)).returncode == 0
    assert place.bucket.get("new") == b"mine"


def test_the_command_line_wins(place: Place) -> None:
    written(place, bucket="no-such-bucket", endpoint="http://127.0.0.1:9")
    done = place.mount()
    assert (done.returncode, done.stderr) == (0, "")
    (place.path / "new").write_bytes(b"mine")
    assert place.bucket.get("new") == b"mine"


def test_ibm_with_an_address(place: Place) -> None:
    endpoint = place.bucket.endpoint
    pair = {"access_key_id": endpoint.access_key, "secret_access_key": endpoint.secret_key}
    rewritten(place, {"apikey": "x", "cos_hmac_keys": pair, "endpoints": "https://h/v2/endpoints"})
    assert place.mount().returncode == 0
    (place.path / "new").write_bytes(b"mine")
    assert place.bucket.get("new") == b"mine"


def test_ibm_without_an_address(place: Place) -> None:
    pair = {"access_key_id": "AK", "secret_access_key": "hush-hush"}
    rewritten(place, {"apikey": "x", "cos_hmac_keys": pair})
    done = place.run(place.bucket.name, str(place.path), "-o", without_url(place))
    assert done.returncode == 4
    assert "add the address of the bucket" in one_line(done)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"secretAccessKey": ""}, '"secretAccessKey" is empty and "accessKeyID" is not'),
        ({"endpoint": 7}, '"endpoint" must be a text'),
        ({"bucket": "no/bucket"}, '"bucket" is not a bucket name'),
        ({"access_key_id": "other"}, "contradict each other"),
    ],
)
def test_wrong(place: Place, more: dict[str, Any], words: str) -> None:
    path = written(place, **more)
    done = place.run(str(place.path), "-o", without_url(place))
    assert done.returncode == 4
    assert one_line(done).startswith(f"bucketfs: {path}: ")
    assert words in done.stderr
    assert place.bucket.endpoint.secret_key not in done.stderr


def test_no_bucket_anywhere(place: Place) -> None:
    written(place, bucket="")
    done = place.run(str(place.path), "-o", without_url(place))
    assert done.returncode == 2
    assert 'has no "bucket"; usage: bucketfs BUCKET[:/PREFIX] MOUNTPOINT' in one_line(done)


def test_rights(place: Place) -> None:
    written(place)
    place.passwd.chmod(0o640)
    done = place.run(str(place.path), "-o", without_url(place))
    assert done.returncode == 4
    assert f"run: chmod 600 {place.passwd}" in one_line(done)


def test_empty_keys_sign_nothing(place: Place, tmp_path: Path) -> None:
    bucket = place.bucket
    bucket.client.put_bucket_acl(Bucket=bucket.name, ACL="public-read")
    bucket.client.put_object(Bucket=bucket.name, Key="file", Body=b"content", ACL="public-read")
    bucket.put("private", b"secret")
    written(place, accessKeyID="", secretAccessKey="")
    done = place.run(str(place.path), "-o", f"{without_url(place)},ro")
    assert (done.returncode, done.stderr) == (0, "")
    assert (place.path / "file").read_bytes() == b"content"
    if not bucket.endpoint.moto:  # which shows all objects of a public bucket
        with pytest.raises(PermissionError):
            (place.path / "private").read_bytes()
    assert "signing with access key" not in (tmp_path / "log").read_text()
