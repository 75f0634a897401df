"""What the AWS configuration says of the endpoint of S3: its address, and whom to believe.

The address has to be known before anything else: what is named there is not Amazon, is not to be
trusted with Amazon's abilities, and has a cache and a journal of its own. Therefore what is written
there and means nothing to botocore is an error, with one line. botocore itself would end in an
AttributeError, or go to Amazon without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from botocore.configloader import raw_config_parse
from botocore.exceptions import BotoCoreError, ConfigNotFound
from botocore.session import Session

from bucketfs.errors import StoreError

#: What the files say, by section.
_Sections = Mapping[str, Any]

_FILE = "the AWS configuration"
_SERVICES = "it takes services = NAME in the profile, and a section [services NAME]"


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
        chosen: _Sections = session.get_scoped_config()
        services: _Sections = session.full_config.get("services", {})
        sections = _raw_sections(session)
    except BotoCoreError as exc:
        raise StoreError("BadConfiguration", message=str(exc)) from exc
    if str(chosen.get("ignore_configured_endpoint_urls", "")).lower() == "true":
        return None
    return next(_in_files(chosen, services, sections), None)


def configured_ca_bundle(profile: str | None) -> str | None:
    """The file of certificates that a profile names. Raises StoreError, BadConfiguration."""
    try:
        chosen: _Sections = Session(profile=profile).get_scoped_config()
    except BotoCoreError as exc:
        raise StoreError("BadConfiguration", message=str(exc)) from exc
    return chosen.get("ca_bundle")


def _raw_sections(session: Session) -> _Sections:
    """Every section of the configuration file, those that botocore drops among them."""
    try:
        raw: _Sections = raw_config_parse(session.get_config_variable("config_file"))
    except ConfigNotFound:
        return {}
    return raw


def _in_files(
    profile: _Sections, services: _Sections, sections: _Sections
) -> Iterator[tuple[str, str]]:
    name = profile.get("services")
    if name is not None:
        said = _of_s3(name, services, sections)
        if said.get("endpoint_url"):
            yield said["endpoint_url"], f"endpoint_url of [services {name}] in {_FILE}"
    if profile.get("endpoint_url"):
        yield profile["endpoint_url"], f"endpoint_url of the profile in {_FILE}"
    nested = profile.get("s3")
    if isinstance(nested, Mapping) and nested.get("endpoint_url"):
        _refuse("endpoint_url below s3 = of a profile means nothing; write it without indenting")
    if _mentions_endpoint(sections.get("services")):
        _refuse(f"[services] has no name; {_SERVICES}")


def _of_s3(name: Any, services: _Sections, sections: _Sections) -> Mapping[str, str]:
    """The block ``s3 =`` of the section that a profile names; {} where it has none."""
    if not isinstance(name, str) or "\n" in name:
        _refuse(f"services = of the profile must be one name; {_SERVICES}")
    if name not in services:
        unnamed = ", and [services] has no name" if "services" in sections else ""
        _refuse(f"the profile names [services {name}], which does not exist{unnamed}; {_SERVICES}")
    block = services[name].get("s3", {})
    if not isinstance(block, Mapping) or services[name].get("endpoint_url"):
        _refuse(f"[services {name}]: indent endpoint_url below a line s3 =")
    return block


def _mentions_endpoint(section: Any) -> bool:
    """Whether an address stands in a section, or in a block of it."""
    if not isinstance(section, Mapping):
        return False
    return "endpoint_url" in section or any(map(_mentions_endpoint, section.values()))


def _refuse(why: str) -> NoReturn:
    raise StoreError("BadConfiguration", message=f"{_FILE}: {why}")
