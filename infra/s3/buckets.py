"""Buckets, and the rights of each service in them.

`python -m infra.s3.buckets` creates what is missing; it reads DRIFTWHEEL_S3_ENDPOINT, _S3_ACCESS_KEY and _S3_SECRET_KEY.
"""

import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from minio import Minio
from urllib3 import PoolManager, Timeout

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
    "reports": {"monitor": WRITE},
}
"""Bucket → service → access; whoever is not named is refused."""
ACTIONS = {READ: ("Read", "List"), WRITE: ("Read", "List", "Write", "Tagging")}


def client(endpoint: str, key: tuple[str, str]) -> Minio:
    """A client that does not retry: whoever asks decides whether to ask again."""
    url = urlsplit(endpoint)
    pool = PoolManager(timeout=Timeout(connect=2, read=20), retries=False)
    return Minio(url.netloc, *key, secure=url.scheme == "https", region="us-east-1", http_client=pool)


def ensure(store: Minio) -> list[str]:
    """Create the missing buckets and return their names."""
    present = {bucket.name for bucket in store.list_buckets()}
    missing = [bucket for bucket in BUCKETS if bucket not in present]
    for bucket in missing:
        store.make_bucket(bucket)
    return missing


def identities(keys: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """SeaweedFS's list of who may do what, for access and secret keys by role; `admin` may do everything."""
    actions = {"admin": ["Admin", "Read", "Write", "List", "Tagging"]}
    for bucket, roles in BUCKETS.items():
        for role, access in roles.items():
            actions.setdefault(role, []).extend(f"{action}:{bucket}" for action in ACTIONS[access])
    return {
        "identities": [
            {
                "name": role,
                "credentials": [{"accessKey": keys[role][0], "secretKey": keys[role][1]}],
                "actions": allowed,
            }
            for role, allowed in actions.items()
        ]
    }


def main() -> None:
    from infra.local.settings import LocalSettings

    settings = LocalSettings()
    if not settings.s3_endpoint:
        sys.exit(
            "DRIFTWHEEL_S3_ENDPOINT is not set: give the store's URL, and its keys in DRIFTWHEEL_S3_ACCESS_KEY/_SECRET_KEY"
        )
    key = (settings.s3_access_key, settings.s3_secret_key.get_secret_value())
    created = ensure(client(settings.s3_endpoint, key))
    print("\n".join(created) if created else "all buckets exist")


if __name__ == "__main__":
    main()
