"""``s3 ls``, ``cat KEY``, ``put KEY``, ``meta KEY NAME``: another client of the test bucket.

For examples that are written in shell. `environment` says where the bucket is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from tests.harness.endpoint import configured
from tests.harness.witness import Witness


def environment(bucket: Witness) -> Mapping[str, str]:
    """What this program needs in its environment to find a bucket."""
    endpoint = bucket.endpoint
    return {
        "BUCKETFS_TEST_URL": endpoint.url,
        "BUCKETFS_TEST_ACCESS_KEY": endpoint.access_key,
        "BUCKETFS_TEST_SECRET_KEY": endpoint.secret_key,
        "BUCKETFS_TEST_REGION": endpoint.region,
    }


def main(name: str, verb: str, words: Sequence[str]) -> None:
    """Carry out one command on the bucket `name`."""
    endpoint = configured()
    assert endpoint is not None, "the environment names no endpoint"
    bucket = Witness(endpoint, name, endpoint.client())
    match verb, *words:
        case ["ls"]:
            print(*bucket.keys(), sep="\n", end="\n" if bucket.keys() else "")
        case ["cat", key]:
            sys.stdout.buffer.write(bucket.get(key))
        case ["put", key]:
            bucket.put(key, sys.stdin.buffer.read())
        case ["meta", key, header]:
            print(bucket.metadata(key)[header])
        case _:
            sys.exit(f"s3: {verb} {words}: not known")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
