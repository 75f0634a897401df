"""A storage class that the endpoint lacks ends a writable mount at its beginning."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from botocore.session import Session

from bucketfs.credentials import StaticKeys
from bucketfs.errors import StoreError, advice
from bucketfs.option_row import STORAGE_CLASSES
from bucketfs.store.base import BytesBody, Headers, Store
from bucketfs.store.config import StoreConfig
from bucketfs.store.opening import open_store
from tests.harness.http import Request
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness


@asynccontextmanager
async def opened(
    bucket: Witness,
    counted: Proxy,
    storage_class: str,
    *,
    read_only: bool = False,
    known: Path | None = None,
) -> AsyncIterator[Store]:
    keys = StaticKeys(bucket.endpoint.access_key, bucket.endpoint.secret_key)
    config = StoreConfig(
        bucket.name, keys, url=counted.url, storage_class=storage_class, read_only=read_only,
        known=known,
    )  # fmt: skip
    async with open_store(config) as store:
        yield store


@pytest.mark.needs("checksums")
async def test_one_that_is_known_is_not_tried_again(
    bucket: Witness, counted: Proxy, tmp_path: Path
) -> None:
    known = tmp_path / "endpoint.json"
    for expected in (1, 0):
        counted.clear()
        async with opened(bucket, counted, "STANDARD", known=known) as store:
            await store.check()
        assert counted.count("PutObject") == expected, counted.story()
    assert not bucket.keys()


def is_classed(request: Request) -> bool:
    return request.headers.get("x-amz-storage-class") == "NOPE"


@pytest.mark.parametrize("code", ["InvalidStorageClass", "InvalidArgument"])
async def test_it_is_refused(bucket: Witness, counted: Proxy, code: str) -> None:
    """Ceph says InvalidArgument, of whatever it does not like."""
    async with opened(bucket, counted, "NOPE") as store:
        fault = counted.fault("PutObject", status=400, code=code, when=is_classed)
        with fault, pytest.raises(StoreError) as caught:
            await store.check()
        able = store.capabilities
    assert caught.value.code == "InvalidStorageClass"
    assert "storage_class=" in advice(caught.value)
    assert able.storage_class
    assert not bucket.keys()


async def test_the_endpoint_refuses_every_object(bucket: Witness, counted: Proxy) -> None:
    """Then it is not for its class, and the mount may still be good for reading."""
    async with opened(bucket, counted, "NOPE") as store:
        with counted.fault("PutObject", status=400, code="InvalidArgument"):
            await store.check()
        assert store.capabilities.storage_class


async def test_one_that_the_endpoint_has(bucket: Witness, counted: Proxy) -> None:
    async with opened(bucket, counted, "STANDARD") as store:
        await store.check()
        await store.put("key", BytesBody(b"1"), Headers())
    sent = [request for request in counted.requests if request.operation == "PutObject"]
    assert {request.headers.get("x-amz-storage-class") for request in sent} == {"STANDARD"}


async def test_who_only_reads_needs_none(bucket: Witness, counted: Proxy) -> None:
    async with opened(bucket, counted, "NOPE", read_only=True) as store:
        await store.check()
    assert not counted.count("PutObject")


def test_the_names_are_amazons() -> None:
    model = Session().get_service_model("s3").shape_for("StorageClass")
    assert set(STORAGE_CLASSES) <= set(model.enum)
