"""How many examples Hypothesis draws, and whether they are the same in each run: decided here.

By default they are the same: what one random run finds must not fail a change that has nothing to
do with it. Somebody has to look all the same: ``BUCKETFS_TEST_RANDOM=N`` draws others in each run,
N times as many (``make test-random``). Nothing measures time, as the machine may be busy with other
things.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

_VARIABLE: Final = "BUCKETFS_TEST_RANDOM"
#: N; 0 by default.
_RANDOM: Final = int(os.environ.get(_VARIABLE, "0"))
#: How much longer than by default a test may take.
LONGER: Final = max(1, _RANDOM)
#: What Hypothesis draws by default.
_USUAL: Final = 100


def examples(count: int) -> int:
    """How many examples a test draws that wants `count` of them by default."""
    return count * LONGER


def load_profile() -> None:
    """Have all tests of Hypothesis follow. Before they are imported: decorators copy settings."""
    settings.register_profile(
        "random" if _RANDOM else "fixed",
        max_examples=examples(_USUAL),
        derandomize=not _RANDOM,
        print_blob=bool(_RANDOM),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("random" if _RANDOM else "fixed")
