"""Publishing a file's content as one object: carries out the flush plan.

The object appears whole or not at all: one PutObject, or parts that only CompleteMultipartUpload
makes visible. A failed upload is aborted and leaves the content as it was, unsaved. Parts that rest
on the file's shelf are copied from there, and leave it when the object stands.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import trio

from bucketfs.cache.pages import PageBody
from bucketfs.errors import FsError, NotFound, StoreError
from bucketfs.file.content import Content
from bucketfs.file.context import FileContext, Version
from bucketfs.file.plan import Part, Put, TooLarge, plan_flush, schedule
from bucketfs.file.stream import ABORT_TIMEOUT, Stream
from bucketfs.file.target import Target
from bucketfs.store.base import ObjectInfo
from bucketfs.tasks import gather

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """The upload was stopped because someone needs the file; nothing has changed."""


async def publish(
    context: FileContext, content: Content, target: Target
) -> tuple[ObjectInfo, Target]:
    """Make the bucket hold what `content` holds, under `target`.

    Returns:
        The new version, and the target with the headers it really carries: those of the moment
        when streaming it began, if it was streamed.

    Writers of this file wait meanwhile (a changing file has no moment at which its parts fit
    together); readers go on.

    Raises:
        FsError: EFBIG when no upload can be this large.
        StoreError: The upload failed; the content is as unsaved as before.
        Interrupted: `Content.interrupt` was called in time.
    """
    content.hold()
    try:
        stream = await content.take_stream(target.key)
        if stream is not None:
            target = replace(target, headers=stream.target.headers, changes=stream.target.changes)
        info = await _send(context, content, target, stream)
        content.published(Version(target.key, info.etag, content.size))
        await content.shelf.clear()
        return info, target
    finally:
        content.unhold()


async def _send(
    context: FileContext, content: Content, target: Target, stream: Stream | None
) -> ObjectInfo:
    try:
        plan = plan_flush(
            base=content.fetcher.limit if content.base else 0,
            dirty=content.dirty,
            size=content.size,
            limits=context.store.capabilities,
            part_size=context.part_size,
        )
    except TooLarge as error:
        raise FsError(errno.EFBIG, f"{target.key!r}: {error}") from error
    if stream is not None:
        try:
            return await _assemble(context, content, target, stream)
        except NotFound as error:
            if error.code != "NoSuchUpload":
                raise
            log.info("%r is sent again, its upload was thrown away by others", target.key)
    if isinstance(plan, Put):
        await content.bring(0, plan.size)
        return await context.store.put(
            target.key,
            PageBody(content.fetcher.pages, 0, plan.size),
            target.headers,
            if_match=target.if_match,
            if_none_match=target.if_none_match,
        )
    if stream is not None or content.shelf:
        return await _assemble(context, content, target, None)
    upload_id = await _begin(context, content, target, plan.parts)
    jobs = [
        functools.partial(_send_part, context, content, target.key, upload_id, number, part)
        for number, part in enumerate(plan.parts, 1)
    ]
    return await _complete(context, content, target, upload_id, jobs)


async def _begin(
    context: FileContext, content: Content, target: Target, parts: Sequence[Part]
) -> str:
    base = content.base
    # completing the upload asks for the version that is copied from, where it is replaced by it
    replaced = base is not None and (base.key, base.etag) == (target.key, target.if_match)
    if not replaced and not context.store.capabilities.copy_if_match:
        await _check_source(context, content, parts)
    return await context.store.create_upload(target.key, target.headers)


async def _check_source(context: FileContext, content: Content, parts: Sequence[Part]) -> None:
    """Where copies cannot be made conditional: see that they would copy the right version."""
    base = content.base
    if base is not None and any(part.copied for part in parts):
        info = await context.store.head(base.key)
        if info.etag != base.etag:
            raise FsError(errno.ESTALE, f"{base.key!r} was replaced by someone else")


async def _assemble(
    context: FileContext, content: Content, target: Target, stream: Stream | None
) -> ObjectInfo:
    """Publish parts at the boundaries of the schedule.

    Each is what the stream has sent, a copy of what rests on the shelf or in the base version, or
    is sent now.
    """
    parts = [
        replace(part, copied=content.copyable(part))
        for part in schedule(content.size, context.store.capabilities, context.part_size)
    ]
    upload_id = stream.upload_id if stream else await _begin(context, content, target, parts)
    jobs: list[Callable[[], Awaitable[str]]] = []
    for number, part in enumerate(parts, 1):
        place = context, content, target.key, upload_id, number, part
        if stream is not None and (etag := stream.etag(number, part)):
            jobs.append(functools.partial(_known, etag))
        elif home := content.shelf.home(part.start, part.stop):
            jobs.append(functools.partial(_copy_home, *place, home))
        else:
            jobs.append(functools.partial(_send_part, *place))
    return await _complete(context, content, target, upload_id, jobs)


async def _known(etag: str) -> str:
    return etag


async def _complete(
    context: FileContext,
    content: Content,
    target: Target,
    upload_id: str,
    jobs: Sequence[Callable[[], Awaitable[str]]],
) -> ObjectInfo:
    """Send all parts and publish them; a failed upload is thrown away."""
    try:
        # parts can be thrown away; once the upload is being completed it has to be waited for
        with trio.CancelScope() as content.upload:
            etags = await gather(jobs, limit=context.parallel)
        if content.upload.cancelled_caught:
            raise Interrupted
        content.upload = None
        return await context.store.complete(
            target.key,
            upload_id,
            list(enumerate(etags, 1)),
            size=content.size,
            if_match=target.if_match,
            if_none_match=target.if_none_match,
        )
    except BaseException:
        content.upload = None
        await _abort(context, target.key, upload_id)
        raise


async def _send_part(
    context: FileContext, content: Content, key: str, upload_id: str, number: int, part: Part
) -> str:
    if part.copied:
        base = content.base
        assert base is not None, "only a plan with a base copies"
        return await context.store.copy_part(
            key,
            upload_id,
            number,
            source=base.key,
            start=part.start,
            stop=part.stop,
            source_if_match=base.etag,
        )
    await content.bring(part.start, part.stop)
    body = PageBody(content.fetcher.pages, part.start, part.stop)
    return await context.store.upload_part(key, upload_id, number, body)


async def _copy_home(
    context: FileContext,
    content: Content,
    key: str,
    upload_id: str,
    number: int,
    part: Part,
    home: str,
) -> str:
    try:
        return await context.store.copy_part(
            key, upload_id, number, source=home, start=0, stop=part.stop - part.start
        )
    except NotFound as error:
        if error.code == "NoSuchUpload":
            raise
        raise content.shelf.lost(home) from error


async def _abort(context: FileContext, key: str, upload_id: str) -> None:
    # shielded: the caller may have been cancelled, and parts left behind cost their owner money
    with trio.CancelScope(shield=True), trio.move_on_after(ABORT_TIMEOUT):
        try:
            await context.store.abort(key, upload_id)
        except StoreError as error:
            log.warning("the parts of a failed upload stay behind: %s", error)
