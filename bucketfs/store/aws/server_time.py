"""The endpoint's clock, as signatures need it: 15 minutes off, and S3 refuses every request.

A laptop that slept, a virtual machine that was paused, a board without a battery: the endpoint
tells its time with each answer (RFC 9110, Date), so that its refusal is also the cure.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from bucketfs import clock
from bucketfs.store.aws.answers import time_told

_log = logging.getLogger("bucketfs.store.aws.server_time")

#: What a refusal says that is about time. HEAD has no body to say it with: any 403 will do.
_REFUSALS: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired", "403"})
#: Those that are about nothing else.
_OF_TIME: Final = _REFUSALS - {"403"}
#: Seconds by which clocks may differ without being to blame: S3 accepts 15 minutes.
_TOLERANCE: Final = 240
#: Unix times a server's clock may show: since there is S3 (2006), and as long as dates that are
#: signed have four digits for the year with some to spare (2100).
_PLAUSIBLE: Final = range(1_136_073_600, 4_102_444_800)


class ServerTime:
    """This machine's clock, set right by what the endpoint says when it refuses our time.

    Attributes:
        offset: Seconds that the endpoint is ahead of this machine.
    """

    def __init__(self) -> None:
        self.offset = 0.0
        #: The endpoint has refused the time that it tells.
        self._lies = False

    def now(self) -> float:
        """Unix time at the endpoint, as far as it is known."""
        return clock.wall_ns() / 1e9 + self.offset

    def learn(self, code: str, headers: Mapping[str, str], offset: float) -> bool:
        """Look at a refusal; whether the same request may pass now that the time is known.

        Args:
            code: S3 error code, or the status as text where there was none.
            headers: Those of the answer.
            offset: The one that the request was signed with; of many that are refused at once, the
                first answer teaches all.
        """
        told = time_told(headers.get("date"))
        if code not in _REFUSALS or told not in _PLAUSIBLE:
            return False
        is_outdated = abs(offset - self.offset) > _TOLERANCE
        if self._lies and code not in _OF_TIME:
            return is_outdated
        difference = told - self.now()
        if abs(difference) <= _TOLERANCE:
            if is_outdated or not self.offset or code not in _OF_TIME:
                return is_outdated
            self._give_up()
            return True
        self.offset += difference
        _log.warning(
            "this machine's clock is %.0f s %s the endpoint's (set it: NTP);"
            " requests are signed with the endpoint's time",
            abs(self.offset),
            "behind" if self.offset > 0 else "ahead of",
        )
        return True

    def _give_up(self) -> None:
        """The very time that the endpoint tells is refused: ours is no worse."""
        self.offset, self._lies = 0.0, True  # from now on it has to say that time is the matter
        _log.warning(
            "the endpoint refuses the time that it tells (a proxy with a wrong clock?):"
            " requests are signed with this machine's time"
        )
