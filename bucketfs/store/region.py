"""The region that stands in the name of a well-known endpoint.

Many providers refuse a request that is signed for another region than their host name says. A name
that is not in this table says nothing, and most servers of one's own (Ceph, MinIO) take any region.
"""

from __future__ import annotations

import re
from typing import Final

#: eu-central-1, us-gov-west-1
_NUMBERED: Final = r"[a-z]{2,}(?:-[a-z]+)+-\d+"
_WORD: Final = r"[a-z0-9]+(?:-[a-z0-9]+)*"

#: A provider's host names, with a group that is the region. Sources: rclone's
#: backend/s3/provider/*.yaml of August 2026, for those where it names a region that is part of the
#: host name; IBM's and Backblaze's documentation ("Endpoints and storage locations", "Call the
#: S3-compatible API"); for Amazon the endpoints of botocore.
_PATTERNS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        # Amazon; also dual stack, FIPS, and VPC endpoints
        (
            rf"(?:.+\.)?s3(?:-fips)?[.-](?:dualstack\.)?({_NUMBERED})(?:\.vpce)?"
            r"\.amazonaws\.(?:com|com\.cn|eu)"
        ),
        # IBM: across regions (us, dal.us), of a region, of one site; public, private and direct
        (
            rf"s3\.(?:(?:private|direct)\.)?(?:[a-z]{{3}}\.)?({_WORD})"
            r"\.cloud-object-storage\.appdomain\.cloud"
        ),
        # IBM's names of before 2019
        (
            rf"s3(?:-api)?\.(?:[a-z]{{3}}-)?({_WORD})"
            r"\.objectstorage\.(?:softlayer\.net|service\.networklayer\.com)"
        ),
        rf"s3\.({_NUMBERED})\.wasabisys\.com",
        r"s3\.([a-z]+-[a-z]+-\d{3})\.backblazeb2\.com",
        rf"s3\.({_WORD})\.scw\.cloud",
        r"([a-z]{3}\d)\.digitaloceanspaces\.com",
        r"([a-z]{3}\d)\.your-objectstorage\.com",
        rf"s3\.({_WORD})\.(?:io\.|perf\.)?cloud\.ovh\.(?:net|us)",
        rf"s3[.-]({_NUMBERED})\.ionoscloud\.com",
        rf"obs\.({_NUMBERED})\.myhuaweicloud\.(?:com|eu)",
        r"cos\.([a-z]{2}-[a-z]+)\.myqcloud\.com",
        rf"oos\.({_WORD})\.outscale\.com",
        rf"s3-({_NUMBERED})\.qiniucs\.com",
        rf"s3\.({_WORD})\.storage\.selcloud\.ru",
        rf"({_WORD})\.object\.fastlystorage\.app",
        rf"({_NUMBERED})\.storage\.impossibleapi\.net",
        rf"({_WORD})\.s3\.synologyc2\.net",
    )
)

#: Names whose region is another word.
_NAMED: Final = {
    "s3.wasabisys.com": "us-east-1",
    "s3-external-1.amazonaws.com": "us-east-1",
    "s3.eu-central-1.ionoscloud.com": "de",
    "s3-eu-central-1.ionoscloud.com": "de",
}
#: All of its buckets are in one region.
_R2: Final = ".r2.cloudflarestorage.com"


def region_in(host: str) -> str | None:
    """The region that an endpoint's host name (in lower case) names; None where it names none."""
    if host in _NAMED:
        return _NAMED[host]
    if host.endswith(_R2):
        return "auto"
    found = (pattern.fullmatch(host) for pattern in _PATTERNS)
    return next((match[1] for match in found if match), None)
