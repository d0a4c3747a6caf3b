"""A store that a user brings: keys from where they are kept, names with a prefix, TLS with an authority of its own."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr, ValidationError

from infra.s3 import buckets, security
from shared.artifacts.connection import connect
from shared.artifacts.objects import S3Objects, publish, read_manifest
from shared.artifacts.settings import S3Settings
from shared.contracts.errors import Unavailable
from tests.conftest import S3Store
from tests.service.kernel.s3_proxy import before

LATER = datetime.now(UTC) + timedelta(hours=1)
AWS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
)
AWS += (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
)


@pytest.fixture(autouse=True)
def _no_keys_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in AWS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def keys_over_http() -> Iterator[Any]:
    """Gives out what the test puts into `answer`, as JSON or XML; `asked` is what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            server.asked.append(self.path + body)  # type: ignore[attr-defined]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(server.answer.encode())  # type: ignore[attr-defined]

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.url = [], f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


async def works(settings: S3Settings) -> bool:
    store = S3Objects.of(settings)
    await store.put("uploads", "own/key", b"mine")
    return await store.get("uploads", "own/key") == b"mine"


async def test_keys_come_from_the_environment(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    at = S3Settings(s3_endpoint=s3.endpoint, s3_credentials="environment")
    with pytest.raises(Unavailable, match="no keys") as refused:
        await works(at)
    assert "S3_CREDENTIALS" in refused.value.next_step
    access, secret = s3.key("data")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    assert await works(at)


async def test_keys_come_from_a_file_and_profile(
    s3: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    access, secret = s3.key("data")
    (tmp_path / "keys").write_text(
        f"[other]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    at = S3Settings(s3_endpoint=s3.endpoint, s3_credentials="file")
    with pytest.raises(Unavailable, match="no keys"):
        await works(at)
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert await works(at)


async def test_keys_come_from_the_role_of_a_container(
    s3: S3Store, monkeypatch: pytest.MonkeyPatch, keys_over_http: Any
) -> None:
    access, secret = s3.key("data")
    given = {
        "AccessKeyId": access,
        "SecretAccessKey": secret,
        "Token": "",
        "Expiration": f"{LATER:%Y-%m-%dT%H:%M:%SZ}",
    }
    keys_over_http.answer = json.dumps(given)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{keys_over_http.url}/role")
    at = S3Settings(s3_endpoint=s3.endpoint, s3_credentials="role")
    assert await works(at)
    assert keys_over_http.asked == ["/role"]  # once for all requests


async def test_a_web_identity_token_is_exchanged_for_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys_over_http: Any
) -> None:
    (tmp_path / "token").write_text("a-signed-token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/data")
    keys_over_http.answer = (
        '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        "<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>GIVEN</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
        f"<SessionToken>session</SessionToken><Expiration>{LATER:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>"
        "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
    at = S3Settings(
        s3_endpoint="https://s3.example", s3_credentials="role", s3_sts_endpoint=keys_over_http.url
    )
    signed = parse_qs(urlsplit(connect(at).presigned_get_object("datasets", "k")).query)
    assert signed["X-Amz-Credential"][0].startswith("GIVEN/")
    assert signed["X-Amz-Security-Token"] == ["session"]
    assert "a-signed-token" in keys_over_http.asked[0]


@pytest.mark.parametrize(
    ("endpoint", "addressing", "url"),
    [
        ("https://s3.example", "auto", "https://s3.example/acme-datasets/k"),
        ("https://s3.example", "path", "https://s3.example/acme-datasets/k"),
        ("https://s3.example", "virtual", "https://acme-datasets.s3.example/k"),
        ("https://s3.amazonaws.com", "auto", "https://acme-datasets.s3.eu-central-1.amazonaws.com/k"),
        ("https://s3.amazonaws.com", "path", "https://s3.eu-central-1.amazonaws.com/acme-datasets/k"),
    ],
)
def test_requests_are_addressed_and_signed_as_the_store_wants_it(
    endpoint: str, addressing: Any, url: str
) -> None:
    at = S3Settings(
        s3_endpoint=endpoint, s3_addressing=addressing, s3_region="eu-central-1", s3_bucket_prefix="acme-",
        s3_access_key="AK", s3_secret_key=SecretStr("SK"), s3_session_token=SecretStr("temporary"),
    )  # fmt: skip
    signed = urlsplit(connect(at).presigned_get_object(at.bucket("datasets"), "k"))
    query = parse_qs(signed.query)
    assert signed._replace(query="").geturl().replace("s3.dualstack.", "s3.") == url
    assert "/eu-central-1/s3/aws4_request" in query["X-Amz-Credential"][0]
    assert query["X-Amz-Security-Token"] == ["temporary"]


async def test_an_authority_of_its_own_is_trusted_and_no_other(s3: S3Store, tmp_path: Path) -> None:
    security.write(tmp_path)
    access, secret = s3.key("data")
    with before(s3.endpoint, tmp_path) as proxy:
        at = S3Settings(s3_endpoint=proxy.endpoint, s3_access_key=access, s3_secret_key=SecretStr(secret))
        with pytest.raises(Unavailable):
            await works(at)
        assert proxy.seen == []
        assert await works(at.model_copy(update={"s3_ca_file": tmp_path / "store-ca.pem"}))


@pytest.mark.parametrize(
    "endpoint", ["s3.example", "ftp://s3.example", "https://s3.example/folder", "https://"]
)
def test_an_address_that_cannot_be_one_is_refused_at_once(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="without a path"):
        S3Settings(s3_endpoint=endpoint)


async def test_two_installations_share_a_store_under_prefixes(s3: S3Store) -> None:
    access, secret = s3.key()
    common = {"s3_endpoint": s3.endpoint, "s3_access_key": access, "s3_secret_key": SecretStr(secret)}
    ours, theirs = (S3Settings(**common, s3_bucket_prefix=prefix) for prefix in ("one-", "two-"))
    for at in (ours, theirs):
        assert len(buckets.ensure(connect(at), at)) == len(buckets.BUCKETS)
        assert buckets.ensure(connect(at), at) == []
    published = await publish(S3Objects.of(ours), "datasets", {"a": b"1"}, {})
    assert await read_manifest(S3Objects.of(ours), "datasets", published.digest) == published.manifest
    for other in (S3Objects.of(theirs), S3Objects(s3.endpoint, *s3.key())):
        assert not await other.exists("datasets", f"sha256/{published.digest}/manifest.json")


def test_the_exported_policies_name_the_prefixed_buckets_and_nothing_else() -> None:
    for service, policy in buckets.policies("acme-").items():
        named = {arn for statement in policy["Statement"] for arn in statement["Resource"]}
        may = {bucket for bucket, roles in buckets.BUCKETS.items() if service in roles}
        assert named == {f"arn:aws:s3:::acme-{bucket}{end}" for bucket in may for end in ("", "/*")}
