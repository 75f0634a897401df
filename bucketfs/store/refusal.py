"""Requests that are refused for a header they could do without.

An endpoint that does not know a checksum or a condition may ignore it, or refuse the request; and
what it answers then does not say which header it means. `as_taken` finds out, in the same call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from bucketfs.errors import StoreError, Unsigned, Unsupported, says_why

if TYPE_CHECKING:
    from bucketfs.store.capability import Provider

T = TypeVar("T")

#: Operation of the failures that a look of ours in place of a condition has found.
LOOKED: Final = "HeadObject"
#: How often a condition that a look finds true is found false until the endpoint is not believed.
#: Once it may be others, who had the name for a moment, and gave it the same bytes back.
REFUSALS: Final = 2


def is_refusal(exc: StoreError) -> bool:
    """Whether the endpoint may have refused a request for a header that it does not know."""
    return isinstance(exc, (Unsupported, Unsigned)) or (
        exc.status == 400 and not says_why(exc.code)
    )


def unsupported(exc: StoreError) -> Unsupported:
    """What a refusal means, once it is clear that the endpoint cannot do it like this."""
    return exc.recast(Unsupported)


async def as_taken(provider: Provider, send: Callable[[], Awaitable[T]], *optional: str) -> T:
    """Make a request; where it is refused, without what it can do without.

    Args:
        provider: Told what the endpoint does not take.
        send: Sends the request as the endpoint's capabilities want it at that moment.
        optional: Capabilities that the request relies on. Each in turn is gone without, and then
            all of them.

    Raises:
        StoreError: As `send` does; the first refusal, if nothing of this helps.
    """
    try:
        return await send()
    except StoreError as exc:
        if not is_refusal(exc):
            raise
        refusal = exc
    used = [name for name in optional if provider.sends(name)]
    trials = [[name] for name in used] + ([used] if len(used) > 1 else [])
    for names in trials:
        with provider.without(*names) as trial:
            try:
                answer = await send()
            except StoreError as exc:
                if not is_refusal(exc):
                    raise
                continue
            trial.holds()
            return answer
    raise refusal
