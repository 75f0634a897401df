"""A mount that knows its endpoint, as all but the first one of a bucket do."""

from __future__ import annotations

import trio

from bucketfs.cache.places import endpoint_file, name_of
from bucketfs.credentials import StaticKeys
from bucketfs.store.base import BytesBody, Headers
from bucketfs.store.capability import CONDITIONS
from bucketfs.store.config import StoreConfig
from bucketfs.store.opening import open_store
from tests.harness.mounts import Mount


def acquaint(mount: Mount) -> None:
    """Find out beforehand what a mount that has not been started would find out when it writes."""
    endpoint = mount.bucket.endpoint
    name = name_of(mount.url, mount.bucket.name) + "|path"
    config = StoreConfig(
        bucket=mount.bucket.name,
        credentials=StaticKeys(endpoint.access_key, endpoint.secret_key),
        url=mount.url,
        region=endpoint.region,
        probe_prefix=mount.prefix,
        known=endpoint_file(mount.scratch / "cache", name),
    )

    headers = Headers({"mode": "33188"})

    async def settle() -> None:
        async with open_store(config) as store:
            await store.settle(*CONDITIONS)
            # Ceph 16 shows only then how it wants ETags spelled
            key = f"{mount.prefix}.acquainted"
            made = await store.put(key, BytesBody(b""), headers)
            await store.put(key, BytesBody(b"1"), headers, if_match=made.etag)
            await store.head(key)
            await store.put(f"{key}-d/", BytesBody(b""), headers)
            await store.delete_many([key, f"{key}-d/"])

    trio.run(settle)
