"""Multipart uploads with a row in the journal, so that none outlives a crash unnoticed."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence

import trio

from bucketfs.cache.journal import Journal
from bucketfs.cache.rows import Upload
from bucketfs.errors import NoAnswer, NotFound, StoreError
from bucketfs.file.context import FileContext
from bucketfs.store.base import Headers, ObjectInfo, Store
from bucketfs.tasks import gather

log = logging.getLogger(__name__)

#: Seconds the beginning of an upload, or the abort of a given-up one, may take when nothing else
#: ends it; it is left to the next mount then.
ABORT_TIMEOUT = 30
#: Aborts of an earlier mount's uploads at once: nobody waits for them, programs wait for others.
_PARALLEL = 4
#: Seconds by which the store's clock may be behind ours, and by which it may be ahead: S3 takes no
#: request whose time is further off.
_BEHIND, _AHEAD = 60, 900


async def begin(context: FileContext, key: str, headers: Headers, *, copies: bool = False) -> str:
    """Begin an upload, as `Store.create_upload`."""
    journal = context.cache.journal
    number = journal.begin(key, time.time())
    # shielded: of an upload whose id is not awaited nobody knows, and it can only be listed
    with trio.move_on_after(ABORT_TIMEOUT, shield=True):
        try:
            upload_id = await context.store.create_upload(key, headers, copies=copies)
        except StoreError as error:
            if error.status:  # with no answer at all it may have begun
                journal.drop_upload(number)
            raise
        journal.began(number, upload_id)
        return upload_id
    raise NoAnswer("ReadTimeout", operation="CreateMultipartUpload", key=key)


async def complete(
    context: FileContext,
    key: str,
    upload_id: str,
    parts: Sequence[tuple[int, str]],
    *,
    size: int,
    if_match: str = "",
    if_none_match: bool = False,
) -> ObjectInfo:
    """Publish the parts, as `Store.complete`."""
    info = await context.store.complete(
        key, upload_id, parts, size=size, if_match=if_match, if_none_match=if_none_match
    )
    context.cache.journal.end_upload(upload_id)
    return info


async def abort(context: FileContext, key: str, upload_id: str) -> None:
    """Throw an upload away, also when the caller has been cancelled.

    What cannot be thrown away now is left to the next mount.
    """
    # shielded: parts left behind cost their owner money
    with trio.CancelScope(shield=True), trio.move_on_after(ABORT_TIMEOUT):
        try:
            await context.store.abort(key, upload_id)
        except StoreError as error:
            log.warning("parts stay in the bucket until the next mount: %s", error)
        else:
            context.cache.journal.end_upload(upload_id)


async def clear(store: Store, journal: Journal, left: Sequence[Upload]) -> None:
    """Abort the uploads that an earlier mount began and did not end.

    Those that cannot be aborted now stay in the journal for the next mount.
    """
    jobs = [functools.partial(_clear, store, journal, upload) for upload in left]
    await gather(jobs, limit=_PARALLEL)


async def _clear(store: Store, journal: Journal, upload: Upload) -> None:
    try:
        for upload_id in await _ids(store, upload):
            await store.abort(upload.key, upload_id)
            log.info("aborted the upload of %r that a crash has left", upload.key)
    except NotFound:
        pass  # the bucket is gone, and the parts with it
    except StoreError as error:
        log.warning(
            "parts that a crash has left stay in the bucket until the next mount: %s", error
        )
        return
    journal.drop_upload(upload.number)


async def _ids(store: Store, upload: Upload) -> list[str]:
    """The upload's id; where the crash came before it was known, those it may have.

    What was begun later is others', even if our own beginning was never carried out.
    """
    if upload.upload_id:
        return [upload.upload_id]
    first, last = upload.since - _BEHIND, upload.since + ABORT_TIMEOUT + _AHEAD
    return [
        found.upload_id
        for found in await store.list_uploads(upload.key)
        if found.key == upload.key and first <= found.initiated <= last
    ]
