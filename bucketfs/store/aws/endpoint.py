"""The endpoint that the AWS configuration names for S3.

It has to be known before anything else: what is named there is not Amazon, is not to be trusted
with Amazon's abilities, and has a cache and a journal of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError
from botocore.session import Session

from bucketfs.errors import StoreError


def configured_url(profile: str | None, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The address, and where it stands; None where nothing is said.

    The order is that of the AWS SDKs and Tools Reference Guide, "Service-specific endpoints".

    Raises:
        StoreError: BadConfiguration, when the files cannot be read, or do not mean what they say.
    """
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if environ.get(name):
            return environ[name], name
    try:
        session = Session(profile=profile)
        chosen: Mapping[str, Any] = session.get_scoped_config()
        services: Mapping[str, Any] = session.full_config.get("services", {})
    except BotoCoreError as exc:
        raise StoreError("BadConfiguration", message=str(exc)) from exc
    if str(chosen.get("ignore_configured_endpoint_urls", "")).lower() == "true":
        return None
    return next(_in_files(chosen, services), None)


def _in_files(profile: Mapping[str, Any], services: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    section = services.get(str(profile.get("services", "")), {})
    if section.get("endpoint_url") and not isinstance(section.get("s3"), Mapping):
        name = profile["services"]
        why = f"[services {name}] in the AWS configuration: indent endpoint_url below s3 ="
        raise StoreError("BadConfiguration", message=why)
    for said, where in (
        (section.get("s3"), f"[services {profile.get('services')}]"),
        (profile, "the profile"),
    ):
        if isinstance(said, Mapping) and said.get("endpoint_url"):
            yield str(said["endpoint_url"]), f"endpoint_url of {where} in the AWS configuration"
