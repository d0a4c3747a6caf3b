"""Who may do what in the object store: the declared matrix, tried out for every service and bucket."""

import io
import itertools
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from minio.error import S3Error

from infra.local.credentials import SERVICES
from infra.s3 import buckets
from tests.conftest import S3Store

KEY = "matrix/object"


def allowed(call: Callable[[], object]) -> bool:
    try:
        call()
    except S3Error as error:
        if error.code != "AccessDenied":
            raise
        return False
    return True


@pytest.mark.parametrize(("service", "bucket"), itertools.product(SERVICES, buckets.BUCKETS))
def test_a_service_may_do_what_is_declared_and_nothing_else(s3: S3Store, service: str, bucket: str) -> None:
    admin, own = (buckets.client(s3.endpoint, s3.key(role)) for role in ("admin", service))
    admin.put_object(bucket, KEY, io.BytesIO(b"x"), 1)
    access = buckets.BUCKETS[bucket].get(service)
    assert allowed(lambda: own.get_object(bucket, KEY).read()) == (access is not None)
    assert allowed(lambda: list(own.list_objects(bucket, recursive=True))) == (access is not None)
    writes = access == buckets.WRITE
    assert allowed(lambda: own.put_object(bucket, f"{KEY}-{service}", io.BytesIO(b"y"), 1)) == writes
    assert allowed(lambda: own.remove_object(bucket, KEY)) == writes


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_makes_or_removes_buckets(s3: S3Store, service: str) -> None:
    own = buckets.client(s3.endpoint, s3.key(service))
    assert not allowed(lambda: own.make_bucket(f"made-by-{service}"))
    assert not allowed(lambda: own.remove_bucket("reports"))


def test_a_wrong_secret_and_no_key_at_all_are_refused(s3: S3Store) -> None:
    access, _ = s3.key("data")
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        buckets.client(s3.endpoint, (access, "wrong")).list_buckets()
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{s3.endpoint}/uploads?list-type=2")


def test_the_store_s_inner_ports_hand_out_nothing(s3: S3Store) -> None:
    buckets.client(s3.endpoint, s3.key()).put_object("adapters", "inner/secret", io.BytesIO(b"weights"), 7)
    ports = s3.stack.site.ports
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(
            f"http://127.0.0.1:{ports['s3_filer']}/buckets/adapters/inner/secret", timeout=5
        ).read()


def test_a_bucket_is_never_made_by_a_write(s3: S3Store) -> None:
    admin = buckets.client(s3.endpoint, s3.key())
    with pytest.raises(S3Error, match="NoSuchBucket"):
        admin.put_object("typo", "key", io.BytesIO(b"x"), 1)
