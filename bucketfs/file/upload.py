"""Publishing a file's content as one object: carries out the plan of its upload.

The object appears whole or not at all: one PutObject, or parts that only CompleteMultipartUpload
makes visible. A failed upload is aborted and leaves the content as it was, unsaved; only one that
is the sole place of some bytes (`EarlyUpload.has_upload_only`) stays, and the next try goes on with
it.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import trio

from bucketfs.cache.pages import PageBody
from bucketfs.errors import Damaged, FsError, NotFound, StoreError, Unsupported
from bucketfs.file import multipart
from bucketfs.file.content import Content
from bucketfs.file.context import FileContext, Version, copy_range
from bucketfs.file.plan import Part, Put, TooLarge, plan_upload
from bucketfs.file.streamed_upload import StreamedUpload
from bucketfs.file.target import Target
from bucketfs.store.base import ObjectInfo, is_manifest
from bucketfs.tasks import gather

log = logging.getLogger(__name__)


#: How often an object is sent that does not arrive as it left.
DAMAGE_TRIES = 3
#: Ways to send it: copied parts with sums, and without; uploaded parts; a single PUT.
WAYS = 4


class Interrupted(Exception):
    """The upload was stopped because someone needs the file; nothing has changed."""


@dataclass
class _Copying:
    """What the store copied for an upload: bytes, and from when to when (`trio.current_time`)."""

    size: int = 0
    began: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @contextmanager
    def timed(self, size: int) -> Iterator[None]:
        """Count a copy of `size` bytes, which may run beside others."""
        self.began = self.began or trio.current_time()
        yield
        self.ended = trio.current_time()
        self.size += size


async def publish(
    context: FileContext, content: Content, target: Target
) -> tuple[ObjectInfo, Target]:
    """Make the bucket hold what `content` holds, under `target`.

    Returns:
        The new version, and the target with the headers it really carries: those of the moment
        when streaming it began, if it was streamed.

    Writers of this file wait meanwhile (a changing file has no moment at which its parts fit
    together); readers go on.

    What arrives damaged is sent again, in its place; what is reported then is unsaved all the same.

    Raises:
        FsError: EFBIG when no upload can be this large.
        StoreError: The upload failed; the content is as unsaved as before.
        Interrupted: `Content.interrupt` was called in time.
    """
    for tries in range(1, DAMAGE_TRIES + 1):
        try:
            return await _publish_as_able(context, content, target)
        except Damaged as error:
            if tries == DAMAGE_TRIES or content.overlay.lost or not error.etag:
                raise
            log.warning("%s; it is sent again", error)
            # nobody else can have made this version, which must not stay in the way of ours
            target = replace(target, if_match=error.etag, if_none_match=False)
    raise AssertionError("unreachable")


async def _publish_as_able(
    context: FileContext, content: Content, target: Target
) -> tuple[ObjectInfo, Target]:
    """Publish, in another way whenever the store turns out to be able to do less."""
    for last in (*[False] * (WAYS - 1), True):
        able = context.store.capabilities
        try:
            return await _publish_once(context, content, target)
        except Unsupported:
            if last or context.store.capabilities == able:
                raise
    raise AssertionError("unreachable")


async def _publish_once(
    context: FileContext, content: Content, target: Target
) -> tuple[ObjectInfo, Target]:
    content.hold()
    try:
        stream = content.early_upload.take(target.key)
        info = await _finish(content, target, stream) if stream is not None else None
        if info is not None and stream is not None:
            target = replace(target, headers=stream.target.headers, changes=stream.target.changes)
        else:
            info = await _send(context, content, target)
        content.published(Version(target.key, info.etag, content.size))
        return info, target
    finally:
        content.unhold()


async def _finish(content: Content, target: Target, stream: StreamedUpload) -> ObjectInfo | None:
    """Complete the upload that ran beside the writer; None if the store has forgotten it."""
    try:
        # parts go on by themselves; once the upload is being completed it has to be waited for
        with trio.CancelScope() as content.upload:
            info = await stream.outcome(target)
            parts = await stream.finish(content.size) if info is None else []
        if content.upload.cancelled_caught:
            raise Interrupted
        content.upload = None
        return info or await stream.complete(target, parts)
    except BaseException as error:
        content.upload = None
        stream.resume()
        if isinstance(error, Damaged):
            stream.gone = True  # it has become an object, though not the one it should
            content.early_upload.upload()
        if isinstance(error, NotFound) and error.code == "NoSuchUpload":
            stream.gone = True
            if content.early_upload.take(target.key) is None:
                log.info("%r is sent again, others have aborted its upload", target.key)
                return None
        if not content.early_upload.has_upload_only:
            content.early_upload.drop()
        raise


async def _send(context: FileContext, content: Content, target: Target) -> ObjectInfo:
    base = content.base
    kept = content.overlay.limit if base is not None and not is_manifest(base.etag) else 0
    whole = kept > 0 and context.copy_speed.prefers_whole(kept)
    try:
        plan = plan_upload(
            base=kept,
            dirty=content.overlay.dirty,
            size=content.size,
            limits=context.store.capabilities,
            part_size=context.part_size,
            whole_copies=whole,
        )
    except TooLarge as error:
        raise FsError(errno.EFBIG, f"{target.key!r}: {error}") from error
    if isinstance(plan, Put):
        async with content.local.held(0, plan.size):
            return await context.store.put(
                target.key,
                PageBody(content.local.pages, 0, plan.size),
                target.headers,
                if_match=target.if_match,
                if_none_match=target.if_none_match,
            )
    upload_id = await _begin(context, content, target, plan.parts)
    copying = _Copying()
    jobs = [
        functools.partial(
            _send_part, context, content, target.key, upload_id, number, part, copying
        )
        for number, part in enumerate(plan.parts, 1)
    ]
    try:
        info = await _complete(context, content, target, upload_id, jobs)
    except StoreError:
        context.copy_speed.failed(whole=whole)
        raise
    context.copy_speed.took(whole=whole, size=copying.size, seconds=copying.seconds)
    return info


async def _begin(
    context: FileContext, content: Content, target: Target, parts: Sequence[Part]
) -> str:
    base = content.base
    # completing the upload asks for the version that is copied from, where it is replaced by it
    replaced = base is not None and (base.key, base.etag) == (target.key, target.if_match)
    if not replaced and not context.store.capabilities.copy_if_match:
        await _check_source(context, content, parts)
    copies = any(part.copied for part in parts)
    return await multipart.begin(context, target.key, target.headers, copies=copies)


async def _check_source(context: FileContext, content: Content, parts: Sequence[Part]) -> None:
    """Where copies cannot be made conditional: see that they would copy the right version."""
    base = content.base
    if base is not None and any(part.copied for part in parts):
        info = await context.store.head(base.key)
        if info.etag != base.etag:
            raise FsError(errno.ESTALE, f"{base.key!r} was replaced by someone else")


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
        return await multipart.complete(
            context,
            target.key,
            upload_id,
            list(enumerate(etags, 1)),
            size=content.size,
            if_match=target.if_match,
            if_none_match=target.if_none_match,
        )
    except BaseException:
        content.upload = None
        await multipart.abort(context, target.key, upload_id)
        raise


async def _send_part(
    context: FileContext,
    content: Content,
    key: str,
    upload_id: str,
    number: int,
    part: Part,
    copying: _Copying,
) -> str:
    if part.copied:
        base = content.base
        assert base is not None, "only a plan with a base copies"
        with copying.timed(part.stop - part.start):
            return await copy_range(
                context.store, base, key, upload_id, number, part.start, part.stop
            )
    async with content.local.held(part.start, part.stop):
        body = PageBody(content.local.pages, part.start, part.stop)
        return await context.store.upload_part(key, upload_id, number, body)
