"""Credentials of botocore's chain under trio, found and refreshed without a remount."""

from __future__ import annotations

import errno
import json
import os
import pwd
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from bucketfs.credentials import Chain
from bucketfs.errors import StoreError, advice, errno_of
from bucketfs.store.aws.answers import unix_time
from bucketfs.store.base import BytesBody, Headers, ObjectInfo
from bucketfs.store.opening import open_store
from tests.store.test_transport import CONFIG, HEAD, error, scripted, talking


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def signer(credentials: Chain) -> str:
    """The access key that signs a request."""
    async with talking(HEAD, credentials=credentials) as (store, script):
        await store.head("k")
    return script.seen[0].headers["authorization"].split("Credential=")[1].split("/")[0]


async def test_profiles(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id=AK1\naws_secret_access_key=S\n"
        "[other]\naws_access_key_id=AK2\naws_secret_access_key=S\n"
    )
    assert await signer(Chain()) == "AK1"
    assert await signer(Chain("other")) == "AK2"


async def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mount(8) starts its helpers with no HOME."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id=AK3\naws_secret_access_key=S\n"
    )
    for name in ("HOME", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name)
    entry = pwd.struct_passwd(("u", "x", 0, 0, "", str(tmp_path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)
    assert await signer(Chain()) == "AK3"


async def test_a_process(tmp_path: Path) -> None:
    answer = {"Version": 1, "AccessKeyId": "AK4", "SecretAccessKey": "S"}
    script = tmp_path / "keys.py"
    script.write_text(f"print({json.dumps(json.dumps(answer))})")
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    assert await signer(Chain()) == "AK4"


async def test_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        "AccessKeyId": "AK5",
        "SecretAccessKey": "S",
        "Token": "T",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    body = json.dumps(keys).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with scripted(answer) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/keys")
        assert await signer(Chain()) == "AK5"


async def test_nothing_found() -> None:
    with pytest.raises(StoreError) as raised:
        async with open_store(replace(CONFIG, url="http://127.0.0.1:1", credentials=Chain())):
            pass
    assert raised.value.code == "NoCredentials"


def process(tmp_path: Path, keys: Path) -> None:
    """Keys come from a process that prints a file, if it is there."""
    script = tmp_path / "keys.py"
    script.write_text(f"import pathlib; print(pathlib.Path({str(keys)!r}).read_text())")
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")


async def test_a_process_that_fails(tmp_path: Path) -> None:
    process(tmp_path, tmp_path / "missing")
    with pytest.raises(StoreError, match="custom-process") as raised:
        async with open_store(replace(CONFIG, url="http://127.0.0.1:1", credentials=Chain())):
            pass
    assert (raised.value.code, errno_of(raised.value)) == ("CredentialsFailed", errno.EACCES)


async def test_a_process_that_fails_later(tmp_path: Path) -> None:
    keys = {"Version": 1, "AccessKeyId": "AK6", "SecretAccessKey": "S", "SessionToken": "T"}
    soon = datetime.now(UTC) + timedelta(seconds=5)  # botocore renews well before
    (tmp_path / "keys").write_text(json.dumps({**keys, "Expiration": soon.isoformat()}))
    process(tmp_path, tmp_path / "keys")
    seen: list[ObjectInfo] = []
    async with talking(HEAD, HEAD, HEAD, credentials=Chain()) as (store, script):
        (tmp_path / "keys").unlink()
        with pytest.raises(StoreError, match="custom-process") as raised:
            await store.head("k")
        assert (raised.value.code, errno_of(raised.value)) == ("CredentialsFailed", errno.EACCES)
        await store.heads(["k", "l"], seen.append)  # raises nothing: no task may end with it
        (tmp_path / "keys").write_text(json.dumps({**keys, "Expiration": "2099-01-01T00:00:00Z"}))
        await store.head("k")
        await store.heads(["k", "l"], seen.append)
    assert len(seen) == 2
    assert len(script.seen) == 3


@pytest.mark.parametrize("operation", ["upload", "copy"])
async def test_a_process_that_hangs_later(tmp_path: Path, operation: str) -> None:
    """A call that moves many bytes, or takes the server long, has no end but its requests'."""
    keys = {"Version": 1, "AccessKeyId": "AK7", "SecretAccessKey": "S", "SessionToken": "T"}
    soon = datetime.now(UTC) + timedelta(seconds=5)
    (tmp_path / "keys").write_text(json.dumps({**keys, "Expiration": soon.isoformat()}))
    process(tmp_path, tmp_path / "keys")
    async with talking(credentials=Chain(), patience=2.0) as (store, script):
        (tmp_path / "keys.py").write_text("import time; time.sleep(60)")
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "upload": lambda: store.put("k", BytesBody(bytes(1 << 20)), Headers()),
            "copy": lambda: store.copy("k", "l", size=1),
        }
        with trio.fail_after(20), pytest.raises(StoreError, match="seconds") as raised:
            await calls[operation]()
    assert (raised.value.code, errno_of(raised.value)) == ("CredentialsFailed", errno.EACCES)
    assert not script.seen


async def test_a_process_that_hangs_when_keys_are_refused(tmp_path: Path) -> None:
    keys = {"Version": 1, "AccessKeyId": "AK8", "SecretAccessKey": "S", "SessionToken": "T"}
    (tmp_path / "keys").write_text(json.dumps({**keys, "Expiration": "2099-01-01T00:00:00Z"}))
    process(tmp_path, tmp_path / "keys")
    refused = error(403, "InvalidAccessKeyId")
    chain: dict[str, Any] = {"credentials": Chain(), "reload_credentials": Chain}
    async with talking(refused, patience=2.0, **chain) as (store, _):
        (tmp_path / "keys.py").write_text("import time; time.sleep(60)")
        with trio.fail_after(20), pytest.raises(StoreError, match="seconds") as raised:
            await store.put("k", BytesBody(bytes(1 << 20)), Headers())
    assert (raised.value.code, errno_of(raised.value)) == ("CredentialsFailed", errno.EACCES)


async def test_an_sso_session_without_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config").write_text(
        "[default]\nsso_start_url = https://sso.invalid/start\nsso_region = us-east-1\n"
        "sso_account_id = 123456789012\nsso_role_name = r\n"
    )
    async with talking(HEAD, credentials=Chain()) as (store, script):
        with pytest.raises(StoreError, match="SSO") as raised:
            await store.head("k")
    assert not script.seen
    assert (raised.value.code, errno_of(raised.value)) == ("CredentialsFailed", errno.EACCES)
    assert "renew the credentials" in advice(raised.value)


async def test_an_unknown_profile() -> None:
    with pytest.raises(StoreError) as raised:
        async with open_store(replace(CONFIG, url="http://x", credentials=Chain("nope"))):
            pass
    assert raised.value.code == "BadConfiguration"
    assert "nope" in raised.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sat, 21 Nov 2026 07:39:22 GMT", 1795246762),
        ("2026-11-21T07:39:22.999Z", 1795246762),
        ("2026-11-21T08:39:22+01:00", 1795246762),
        ("", 0),
    ],
)
def test_dates(text: str, expected: int) -> None:
    assert unix_time(text) == expected
