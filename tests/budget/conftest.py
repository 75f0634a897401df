"""What the tests of budgets mount with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.acquaint import acquaint
from tests.harness.mounts import Mount, Mounts
from tests.harness.proxy import Proxy
from tests.harness.witness import Witness


@pytest.fixture
def mounted(bucket: Witness, mount: Mounts, counted: Proxy) -> Callable[..., Mount]:
    """Mounts the bucket as it is then, through the proxy, and starts to count.

    It is not the first mount of the bucket; what that one asks is counted in `test_first`. What is
    known is trusted for a minute, so that a busy machine does not count what time has outdated.
    """

    def start(*options: str) -> Mount:
        made = mount(bucket, "open_ttl=60", *options, url=counted.url, start=False)
        acquaint(made)
        made.start()
        counted.clear()
        return made

    return start
