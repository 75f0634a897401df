"""Whose certificates a mount believes: ``ca_bundle=``, or what the environment names.

The file is found and read before the fork: a daemon lives in ``/``, and who mounts is to be told.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import replace

from bucketfs.cli.failure import ExitCode, Failure
from bucketfs.errors import StoreError
from bucketfs.options import Options


def with_ca_bundle(options: Options, environ: Mapping[str, str]) -> Options:
    """The options with the absolute path of the certificates; None where the system's are meant.

    The order is the option, ``AWS_CA_BUNDLE``, ``ca_bundle`` of the profile, and the variables of
    requests and curl, which users of s3fs have.

    Raises:
        Failure: The file cannot be read, or has no certificate.
    """
    if options.no_check_certificate:
        return options
    found = next(_named(options, environ), None)
    if found is None:
        return options
    where, path = found
    path = os.path.abspath(os.path.expanduser(path))
    is_used = where == _OPTION or not (options.url or "").startswith("http://")
    if is_used and (fault := _fault(path)):
        raise Failure(ExitCode.USAGE, f"{where}={path}: {fault}")
    return replace(options, ca_bundle=path if is_used else None)


_OPTION = "ca_bundle"


def _named(options: Options, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Where a path stands, and the path, the strongest first."""
    if options.ca_bundle:
        yield _OPTION, options.ca_bundle
    if environ.get("AWS_CA_BUNDLE"):
        yield "AWS_CA_BUNDLE", environ["AWS_CA_BUNDLE"]
    if path := _of_profile(options.profile):
        yield "ca_bundle of the AWS configuration", path
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if environ.get(name):
            yield name, environ[name]


def _of_profile(profile: str | None) -> str | None:
    # The AWS library takes long to load; what is wrong elsewhere has been said before.
    from bucketfs.store.aws.endpoint import configured_ca_bundle  # noqa: PLC0415

    try:
        return configured_ca_bundle(profile)
    except StoreError as error:
        raise Failure(ExitCode.USAGE, error.message) from None


def _fault(path: str) -> str:
    """What is wrong with a file (or, as for requests, a directory) of certificates, else ""."""
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        return "holds no certificate in PEM format"
    except OSError as error:
        return error.strerror or str(error)
    return ""
