"""Objects made by one PutObject each (``nomultipart``), so that their ETags are MD5 sums."""

from __future__ import annotations

import dataclasses

from bucketfs.store.base import Capabilities
from bucketfs.store.layers.wrapper import StoreWrapper


class SingleStore(StoreWrapper):
    """Says that the store takes no uploads in parts; files end at what one PutObject takes."""

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(self.inner.capabilities, multipart=False)
