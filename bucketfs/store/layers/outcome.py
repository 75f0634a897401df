"""What requests may have done whose answers never came. Pure decisions."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bucketfs.errors import NoAnswer, StoreError
from bucketfs.store.base import UploadInfo


def is_open(exc: StoreError) -> bool:
    """Whether the request may have been carried out all the same."""
    return isinstance(exc, NoAnswer) or exc.status >= 500


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
