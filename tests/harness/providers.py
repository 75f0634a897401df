"""What is known of an endpoint, as tests want it to be known."""

from __future__ import annotations

from bucketfs.credentials import Anonymous
from bucketfs.store.base import Capabilities
from bucketfs.store.capability import Provider
from bucketfs.store.config import StoreConfig


def provider_with(capabilities: Capabilities) -> Provider:
    """An endpoint of which everything is known."""
    provider = Provider(StoreConfig(bucket="b", credentials=Anonymous(), url="http://host"))
    provider.capabilities = capabilities
    provider.unknown.clear()
    for ability in ("markers", "user_metadata"):
        provider.confirm(ability)
    return provider
