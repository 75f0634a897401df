"""What we use of aiobotocore and botocore that these do not promise to keep.

They may rename any of it in a minor release. A connection looks for all of it once; where a name is
missing, requests take aiobotocore's own way, which needs none of them and costs more CPU.
``pyproject.toml`` bounds the versions, and ``tests/store/test_internals.py`` notices what changed
in a newer one.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, Final

from botocore.auth import S3SigV4Auth

#: Where a connection's keys are.
CREDENTIALS: Final = "client._request_signer._credentials"

#: Names, and what they are used for.
USED: Final = {
    CREDENTIALS: "the fast path signs with them, and renewed keys are put there",
    "client._endpoint.http_session.send": "the fast path sends its requests by it",
    "client._ruleset_resolver.construct_endpoint": "replaced: asked once an operation and bucket",
    "client._ruleset_resolver.auth_schemes_to_signing_ctx": "says what the fast path signs for",
    "client._serializer.serialize_to_request": "writes the requests of the fast path",
    "client._user_agent_creator.to_string": "replaced: rendered once",
    "client.meta.events._emitter._handlers.prefix_search": "replaced: leaves handlers out",
    "client.meta.events._emitter._lookup_cache.clear": "forgets the handlers that are left out",
    "S3SigV4Auth._header_value": "overridden: blanks as servers see them",
    "S3SigV4Auth._modify_request_before_signing": "overridden: signs with the endpoint's clock",
}


def missing(client: Any, names: Iterable[str] = USED) -> list[str]:
    """Those of `names` that this version of aiobotocore and botocore has not."""
    roots = {"client": client, "S3SigV4Auth": S3SigV4Auth}
    return [name for name in names if not _has(roots, name)]


def _has(roots: dict[str, Any], name: str) -> bool:
    root, _, path = name.partition(".")
    try:
        attrgetter(path)(roots[root])
    except AttributeError:
        return False
    return True
