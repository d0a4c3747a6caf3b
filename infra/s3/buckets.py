"""Buckets, and the rights of each service in them.

`python -m infra.s3.buckets` creates what is missing, `python -m infra.s3.buckets policies` prints the IAM policy of each
service; both read the settings DRIFTWHEEL_S3_….
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from minio import Minio
from pydantic import SecretStr

from shared.artifacts.connection import connect
from shared.artifacts.settings import S3Settings

READ = "r"
WRITE = "rw"
BUCKETS: dict[str, dict[str, str]] = {
    "uploads": {"data": WRITE},
    "datasets": {
        "data": WRITE,
        "trainer": READ,
        "evaluator": READ,
        "registry": READ,
        "serving": READ,
        "monitor": READ,
    },
    "adapters": {"trainer": WRITE, "evaluator": READ, "registry": READ, "serving": READ},
    "checkpoints": {"trainer": WRITE},
    "evaluations": {"evaluator": WRITE, "registry": READ, "serving": READ, "monitor": READ},
    "predictions": {"serving": WRITE, "data": READ, "monitor": READ},
    "corrections": {"serving": WRITE, "data": READ},
    "foreign-corrections": {"data": WRITE},
    "reports": {"monitor": WRITE},
}
"""Bucket → service → access; whoever is not named is refused."""
ACTIONS = {
    READ: ("GetObject",),
    WRITE: ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload", "ListMultipartUploadParts"),
}
"""What each access allows on the objects of a bucket; either allows to list it."""


def client(endpoint: str, key: tuple[str, str]) -> Minio:
    """A client of the embedded store, that does not retry: whoever asks decides whether to ask again."""
    secret = SecretStr(key[1])
    at = S3Settings(s3_endpoint=endpoint, s3_access_key=key[0], s3_secret_key=secret)
    return connect(at, connect_seconds=2, read_seconds=20)


def ensure(store: Minio, at: S3Settings) -> list[str]:
    """Create the missing buckets and return their names. Needs no right to list all buckets of an account."""
    missing = [name for bucket in BUCKETS if not store.bucket_exists(name := at.bucket(bucket))]
    for name in missing:
        store.make_bucket(name)
    return missing


def policies(prefix: str = "") -> dict[str, dict[str, Any]]:
    """The IAM policy of each service: what it may do, and nothing else."""
    access = {
        service: {bucket: roles[service] for bucket, roles in BUCKETS.items() if service in roles}
        for service in sorted({service for roles in BUCKETS.values() for service in roles})
    }
    return {
        service: {
            "Version": "2012-10-17",
            "Statement": [
                statement
                for bucket, may in buckets.items()
                for statement in _statements(f"{prefix}{bucket}", may)
            ],
        }
        for service, buckets in access.items()
    }


def _statements(bucket: str, access: str) -> list[dict[str, Any]]:
    arn = f"arn:aws:s3:::{bucket}"
    objects = [f"s3:{action}" for action in ACTIONS[access]]
    return [
        {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": [arn]},
        {"Effect": "Allow", "Action": objects, "Resource": [f"{arn}/*"]},
    ]


def identities(keys: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """SeaweedFS's list of who may do what, for access and secret keys by role; `admin` may do everything.

    Services have the very policies that are exported for other stores.
    """
    allowed = policies()
    return {
        "identities": [
            {
                "name": role,
                "credentials": [{"accessKey": access, "secretKey": secret}],
                **(
                    {"policyNames": [role]}
                    if role in allowed
                    else {"actions": ["Admin", "Read", "Write", "List"]}
                ),
            }
            for role, (access, secret) in keys.items()
        ],
        "policies": [{"name": role, "content": json.dumps(policy)} for role, policy in allowed.items()],
    }


def main() -> None:
    from infra.local.settings import LocalSettings

    settings = LocalSettings()
    if sys.argv[1:] == ["policies"]:
        print(json.dumps(policies(settings.s3_bucket_prefix), indent=2))
        return
    if not (at := settings.own_s3):
        sys.exit(
            "DRIFTWHEEL_S3_ENDPOINT is not set: give the store's URL, and its keys in DRIFTWHEEL_S3_ACCESS_KEY/_SECRET_KEY"
        )
    created = ensure(connect(at), at)
    print("\n".join(created) if created else "all buckets exist")


if __name__ == "__main__":
    main()
