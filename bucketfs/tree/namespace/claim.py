"""Copying an object to a name that must be free: what RENAME_NOREPLACE comes down to.

CopyObject has a condition on its target at few stores. PutObject has one almost everywhere, so that
elsewhere a small object is carried over by hand, and of two who want one name exactly one gets it.
For a large one the bucket is asked just before the copy.
"""

from __future__ import annotations

from dataclasses import replace

from bucketfs.store.base import BytesBody, Headers, ObjectInfo, Store, tag_query

#: Objects up to this size are carried over: a GET and a PUT of so much take no longer than a HEAD
#: and a copy.
CARRIED_MOST = 1 << 20


async def copy_to_free(
    store: Store, source: str, target: str, *, size: int, etag: str, headers: Headers | None
) -> ObjectInfo:
    """As `Store.copy` of the version `etag`, unless the target exists.

    Raises:
        KeyTaken: It does.
        PreconditionFailed, NotFound: The source is another version, or gone.
        StoreError: As `Store.copy` does.
    """
    if size > CARRIED_MOST or store.capabilities.target_if_none_match:
        return await store.copy(
            source,
            target,
            size=size,
            headers=headers,
            source_if_match=etag,
            target_if_none_match=True,
        )
    body = bytearray()
    info = await store.get(source, body.extend, if_match=etag, size=size)
    came = info.headers or Headers()
    tags = tag_query(await store.tags(source)) if came.tag_count else ""
    given = replace(headers or came, keep_tags=False, tags=tags)
    return await store.put(target, BytesBody(bytes(body)), given, if_none_match=True)
