"""What requests may have done whose answers never came. Pure decisions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from bucketfs.errors import KeyTaken, NoAnswer, NotFound, PreconditionFailed, StoreError
from bucketfs.store.base import Capabilities, ObjectInfo, UploadInfo, is_etag
from bucketfs.store.refusal import LOOKED


def is_open(exc: StoreError) -> bool:
    """Whether the request may have been carried out all the same."""
    return isinstance(exc, NoAnswer) or exc.status >= 500


def contradiction(
    key: str, found: ObjectInfo | None, if_match: str, if_none_match: bool
) -> StoreError | None:
    """What a server would say that compares a condition with what stands there; None: it is true.

    Args:
        key: What is to be stored.
        found: What stands there, None for nothing.
        if_match: The ETag that it must have, if one is given.
        if_none_match: Whether nothing must stand there.
    """
    if found is None:
        gone = NotFound("NoSuchKey", status=404, operation=LOOKED, key=key)
        return gone if if_match else None
    if if_none_match:
        return KeyTaken("PreconditionFailed", status=412, operation=LOOKED, key=key)
    if if_match and found.etag != if_match:
        return PreconditionFailed("PreconditionFailed", status=412, operation=LOOKED, key=key)
    return None


@dataclass(frozen=True, slots=True)
class Condition:
    """What a request may replace.

    Attributes:
        request: What names its conditions among the `Capabilities`: ``put``, ``target`` (of a
            copy) or ``complete``.
        key: What is stored.
        if_match / if_none_match: See `contradiction`.
    """

    request: str
    key: str
    if_match: str
    if_none_match: bool

    def is_guarded(self, can: Capabilities) -> bool:
        """Whether the endpoint sees to it, also when the request is sent again."""
        if self.if_none_match:
            return bool(getattr(can, f"{self.request}_if_none_match"))
        if not self.if_match:
            return True
        return is_etag(self.if_match) and bool(getattr(can, f"{self.request}_if_match"))

    def contradiction(self, found: ObjectInfo | None) -> StoreError | None:
        return contradiction(self.key, found, self.if_match, self.if_none_match)


def lost_uploads(
    listed: Iterable[UploadInfo], key: str, ours: str, known: Collection[str], seconds: float
) -> list[str]:
    """Ids of uploads that attempts before the one that succeeded may have begun.

    All times are the server's, in whole seconds. Another client's upload of the very key begun in
    these very seconds would be among them: it finds its upload gone, says so or sends it again.

    Args:
        listed: What is unfinished now.
        key: What is uploaded.
        ours: The upload that is to stay.
        known: Other uploads that were begun here.
        seconds: Time from the first attempt to now.
    """
    began = next((one.initiated for one in listed if one.upload_id == ours), None)
    if began is None:
        return []
    return [
        one.upload_id
        for one in listed
        if one.key == key
        and one.upload_id not in known
        and began - seconds - 1 <= one.initiated <= began
    ]
