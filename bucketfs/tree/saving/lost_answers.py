"""Uploads whose outcome nobody was told: is what stands under the key one of ours?

A mount that died, or an answer that was lost, leaves an upload that we know nothing of, but for the
size and the metadata that it was sent with (`Content.attempts`), times of a nanosecond among them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from dataclasses import replace

from bucketfs.cache.pages import PageBody
from bucketfs.errors import NotFound
from bucketfs.file.content import Content
from bucketfs.file.context import Version
from bucketfs.file.plan import SINGLE_PUT
from bucketfs.file.target import Target
from bucketfs.store.base import ObjectInfo, Store

log = logging.getLogger(__name__)


async def delete_attempt(store: Store, key: str, content: Content) -> None:
    """Delete what an upload of unknown outcome has made of a key that the file is to lose.

    Raises:
        StoreError: A request failed.
    """
    if not content.may_have_arrived:
        return
    with contextlib.suppress(NotFound):
        found = await store.head(key)
        if _is_attempt(store, found, content):
            await store.delete(key, if_match=found.etag)
    content.may_have_arrived = False


async def find_arrived(
    store: Store, target: Target, content: Content
) -> tuple[ObjectInfo | None, Target] | None:
    """What our own upload has made of the key; None when the object there is of none.

    With the object's version the content has arrived, and counts as published. Without it the
    object is of an earlier state of the file: publish over it, as the target says.
    """
    revision = content.overlay.revision
    if content.promise is None and not content.attempts:
        return None
    if content.early_upload.has_upload_only:
        return None
    try:
        found = await store.head(target.key)
    except NotFound:
        return None
    named = store.capabilities.user_metadata
    same = named and _said(found) == (content.size, dict(target.headers.metadata))
    if content.overlay.revision == revision and (same or _is_digest(found.etag, content)):
        log.info("%r is in the bucket already: the answer to its upload was lost", target.key)
        content.published(Version(target.key, found.etag, found.size))
        # other attributes than ours are brought there after it
        return found, target if same else replace(target, changes=-1)
    if not _is_attempt(store, found, content):
        return None
    log.info(
        "%r is in the bucket as it was before, by an upload whose answer was lost: it is replaced",
        target.key,
    )
    if content.base is not None:
        # what is the base version's of this file is the same there
        content.rebase(Version(target.key, found.etag, found.size))
    return None, replace(target, if_match=found.etag, if_none_match=False)


def _said(found: ObjectInfo) -> tuple[int, dict[str, str]]:
    return found.size, dict(found.headers.metadata if found.headers is not None else {})


def _is_attempt(store: Store, found: ObjectInfo, content: Content) -> bool:
    """Whether an object is of an upload of ours that is said to have failed."""
    sent = [(size, dict(metadata)) for size, metadata in content.attempts]
    return store.capabilities.user_metadata and _said(found) in sent


def _is_digest(etag: str, content: Content) -> bool:
    """Whether an ETag is the MD5 of a content, as that of most single uploads is."""
    if content.size > SINGLE_PUT or content.local.missing(0, content.size):
        return False
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in PageBody(content.local.pages, 0, content.size).chunks():
        digest.update(chunk)
    return digest.hexdigest() == etag
