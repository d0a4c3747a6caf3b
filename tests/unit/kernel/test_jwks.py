"""Keys of an identity provider, over real HTTP; keys of a file; revoked tokens; what signed nonsense can do (nothing)."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from services.console.settings import Settings
from shared.contracts.errors import Unauthenticated, Unavailable
from shared.http import jwks
from shared.http.jwks import KeyFile, KeyUrl, parse_key_set
from shared.http.settings import check_url
from shared.http.tokens import Authenticator, Caller, Revoked, mint
from shared.http.web import guard

ED = OKPKey.generate_key("Ed25519", {"kid": "ed", "use": "sig"})
RSA = RSAKey.generate_key(2_048, {"kid": "rsa", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec", "use": "sig"})
NEW = OKPKey.generate_key("Ed25519", {"kid": "new", "use": "sig"})
EVERY: tuple[Any, ...] = ("Ed25519", "EdDSA", "ES256", "RS256")


class Provider:
    """An identity provider: what it says, how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[Key] = [ED, RSA, EC]
        self.status, self.seconds, self.asked = 200, 0.0, 0
        self.raw: bytes | None = None
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                time.sleep(provider.seconds)
                body = (
                    provider.raw
                    or json.dumps({"keys": [key.as_dict(private=False) for key in provider.keys]}).encode()
                )
                self.send_response(provider.status)
                self.send_header("location", "http://127.0.0.1:1/")
                self.send_header("cache-control", "public, max-age=60")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/jwks"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


def signed(key: Any, alg: str, kid: str | None, raw: bytes | None = None, **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": "idp",
        "aud": "driftwheel",
        "sub": "ann",
        "scope": "chat",
        "iat": now,
        "exp": now + 60,
    } | changes
    header = {"alg": alg} | ({"kid": kid} if kid else {})
    body = raw if raw is not None else json.dumps(claims).encode()
    return f"Bearer {jws.serialize_compact(header, body, key, algorithms=[alg])}"


def authenticator(keys: Any, algorithms: Any = EVERY, **options: Any) -> Authenticator:
    return Authenticator(keys, "idp", "driftwheel", algorithms, **options)


@pytest.mark.parametrize(
    ("key", "alg"),
    [(ED, "EdDSA"), (ED, "Ed25519"), (RSA, "RS256"), (EC, "ES256")],
    ids=["ed", "ed-new", "rsa", "ec"],
)
async def test_tokens_of_a_provider_are_accepted(provider: Provider, key: Key, alg: str) -> None:
    verifies = authenticator(KeyUrl(provider.url))
    assert (await verifies.caller(signed(key, alg, key.kid))).subject == "ann"
    assert (await verifies.caller(signed(key, alg, key.kid))).subject == "ann"
    assert provider.asked == 1


async def test_only_the_algorithms_that_were_set(provider: Provider) -> None:
    verifies = authenticator(KeyUrl(provider.url), ("RS256",))
    assert (await verifies.caller(signed(RSA, "RS256", "rsa"))).subject == "ann"
    for key, alg in ((ED, "EdDSA"), (EC, "ES256"), (RSA, "PS256"), (RSA, "RS512")):
        with pytest.raises(Unauthenticated):
            await verifies.caller(signed(key, alg, key.kid))


async def test_a_key_is_for_its_own_kind_of_signature(provider: Provider) -> None:
    verifies = authenticator(KeyUrl(provider.url))
    public = OctKey.import_key(json.dumps(RSA.as_dict(private=False)))
    forged = [
        signed(public, "HS256", "rsa"),
        signed(EC, "ES256", "rsa"),
        signed(RSA, "RS256", "ec"),
        signed(NEW, "EdDSA", "ed"),
    ]
    for token in forged:
        with pytest.raises(Unauthenticated):
            await verifies.caller(token)


async def test_a_new_key_is_fetched_when_it_first_signs(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifies = authenticator(KeyUrl(provider.url))
    await verifies.caller(signed(ED, "EdDSA", "ed"))
    provider.keys = [NEW]
    monkeypatch.setattr(jwks, "_SOONEST_SECONDS", 0.0)
    assert (await verifies.caller(signed(NEW, "EdDSA", "new"))).subject == "ann"
    with pytest.raises(Unauthenticated):
        await verifies.caller(signed(ED, "EdDSA", "ed"))


async def test_made_up_key_ids_are_no_way_to_flood_the_provider(provider: Provider) -> None:
    verifies = authenticator(KeyUrl(provider.url))
    tokens = [signed(ED, "EdDSA", f"made-up-{number}") for number in range(50)]
    answers = await asyncio.gather(*(verifies.caller(token) for token in tokens), return_exceptions=True)
    assert all(isinstance(answer, Unauthenticated) for answer in answers)
    assert provider.asked == 1


async def test_a_provider_that_is_away_later_changes_nothing(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifies = authenticator(KeyUrl(provider.url))
    await verifies.caller(signed(ED, "EdDSA", "ed"))
    provider.status = 503
    monkeypatch.setattr(jwks, "_SOONEST_SECONDS", 0.0)
    later = time.monotonic() + 3_600
    monkeypatch.setattr("shared.http.jwks.time.monotonic", lambda: later)
    assert (await verifies.caller(signed(ED, "EdDSA", "ed"))).subject == "ann"
    assert await verifies.problems() == []
    much_later = later + 86_400
    monkeypatch.setattr("shared.http.jwks.time.monotonic", lambda: much_later)
    with pytest.raises(Unavailable):
        await verifies.caller(signed(ED, "EdDSA", "ed"))


@pytest.mark.parametrize("case", ["down", "redirect", "slow", "html", "endless", "nothing"])
async def test_a_provider_that_never_answered_is_an_outage(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(jwks, "_FETCH_SECONDS", 0.3)
    match case:
        case "down":
            provider.close()
        case "redirect":
            provider.status = 302
        case "slow":
            provider.seconds = 3.0
        case "html":
            provider.raw = b"<html>"
        case "endless":
            provider.raw = b" " * 1_000_000
        case _:
            provider.raw = b'{"keys": "none"}'
    verifies = authenticator(KeyUrl(provider.url))
    with pytest.raises(Unavailable):
        await verifies.caller(signed(ED, "EdDSA", "ed"))
    [why] = await verifies.problems()
    assert "identity provider" in why


def test_only_https_leads_to_a_provider_elsewhere() -> None:
    for good in (
        "https://idp.example/jwks",
        "http://127.0.0.1:1/x",
        "http://localhost/x",
        "http://[::1]:1/x",
    ):
        assert check_url(good) == good
    for bad in (
        "http://idp.example/jwks",
        "file:///etc/passwd",
        "https://u:p@idp.example/",
        "idp",
        "ftp://x/",
    ):
        with pytest.raises(ValueError):
            check_url(bad)


def test_one_source_of_keys(tmp_path: Path) -> None:
    for options in ({}, {"auth_jwks_file": tmp_path / "x", "auth_jwks_url": "https://idp.example/jwks"}):
        with pytest.raises(ValueError, match="exactly one"):
            Settings(**options)
    assert Settings(auth_jwks_url="https://idp.example/jwks").authenticator()


def test_keys_of_other_kinds_are_left_out() -> None:
    odd = [
        {"kty": "XYZ", "kid": "odd"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        {"kid": "none"},
        7,
        None,
    ]
    encryption = RSAKey.generate_key(2_048, {"kid": "enc", "use": "enc"}).as_dict(private=False)
    found = parse_key_set(json.dumps({"keys": [*odd, encryption, ED.as_dict(private=False)]}).encode())
    assert list(found) == ["ed"]
    for broken in (b"", b"[]", b"{}", b'{"keys": {}}', b"[" * 100_000, b"\xff"):
        with pytest.raises(ValueError):
            parse_key_set(broken)


DEEP = b'{"a":' * 3_000 + b"1" + b"}" * 3_000
SIGNED_NONSENSE: dict[str, Any] = {
    "NUL in sub": {"sub": "a\x00b"},
    "lone surrogate in sub": {"sub": "a\ud800"},
    "escape in sub": {"sub": "a\x1b]0;x\x07"},
    "long sub": {"sub": "a" * 201},
    "empty sub": {"sub": ""},
    "sub is a list": {"sub": ["ann"]},
    "deep claims": {"raw": DEEP},
    "claims are a list": {"raw": b"[]"},
    "claims are no text": {"raw": b"\xff\xfe"},
    "claims are nothing": {"raw": b""},
    "exp is text": {"exp": "tomorrow"},
    "exp is infinite": {"exp": float("inf")},
    "exp is not a number": {"exp": float("nan")},
    "exp is huge": {"exp": 10**400},
    "exp is true": {"exp": True},
    "iat is text": {"iat": "now"},
    "iat is null": {"iat": None},
    "nbf is a list": {"nbf": []},
    "scope is a number": {"scope": 7},
    "lives a year": {"exp": int(time.time()) + 366 * 86_400},
    "backdated to live a year": {"iat": int(time.time()) - 366 * 86_400},
    "jti is a list": {"jti": ["x"]},
    "jti is an object": {"jti": {"x": 1}},
    "aud is an object": {"aud": {"driftwheel": 1}},
    "issuer is a list": {"iss": ["idp"]},
}


@pytest.mark.parametrize("case", SIGNED_NONSENSE)
async def test_signed_nonsense_is_no_token(case: str, tmp_path: Path) -> None:
    verifies = authenticator(_file(tmp_path, ED), revoked=Revoked(tmp_path / "revoked.txt"))
    with pytest.raises(Unauthenticated):
        await verifies.caller(signed(ED, "EdDSA", "ed", **SIGNED_NONSENSE[case]))


@pytest.mark.parametrize(
    "token",
    ["....", "a.b.c", "ü.ü.ü", "a" * 100_000, "e30.e30.e30", "." * 5_000, "eyJhbGciOjd9.e30.x", "eyJhbGciOiJSUzI1NiIsImtpZCI6W119.e30.x"],
)  # fmt: skip
async def test_a_strangers_nonsense_is_no_token(token: str, tmp_path: Path) -> None:
    with pytest.raises(Unauthenticated):
        await authenticator(_file(tmp_path, ED)).caller(f"Bearer {token}")


async def test_a_revoked_token_counts_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "revoked.txt"
    verifies = Authenticator(_file(tmp_path, ED), "driftwheel", "driftwheel", EVERY, Revoked(file))
    stolen, mine = (f"Bearer {mint(ED, 'ann', ['chat'], 600, token_id=name)}" for name in ("stolen", "mine"))
    assert (await verifies.caller(stolen)).subject == "ann"
    file.write_text("other\nstolen\n")
    later = time.monotonic() + 6
    monkeypatch.setattr("shared.http.tokens.time.monotonic", lambda: later)
    with pytest.raises(Unauthenticated):
        await verifies.caller(stolen)
    assert (await verifies.caller(mine)).subject == "ann"
    file.write_bytes(b"\xff\xff")
    much_later = later + 6
    monkeypatch.setattr("shared.http.tokens.time.monotonic", lambda: much_later)
    with pytest.raises(Unavailable):
        await verifies.caller(mine)
    assert "revoked" in (await verifies.problems())[0]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"[" * 100_000, b'{"keys": 7}'])
async def test_without_keys_nobody_is_told_that_his_token_is_wrong(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "jwks.json"
    if content is not None:
        file.write_bytes(content)
    verifies = authenticator(KeyFile(file))
    app = FastAPI()
    guard(app, verifies, public=(), max_body_bytes=1_000)
    answer = TestClient(app).get("/x", headers={"authorization": signed(ED, "EdDSA", "ed")})
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "key set" in answer.json()["detail"]
    [why] = await verifies.problems()
    assert "key set" in why
    file.write_text(json.dumps({"keys": [ED.as_dict(private=False)]}))
    assert (await verifies.caller(signed(ED, "EdDSA", "ed"))).subject == "ann"
    assert await verifies.problems() == []


def test_a_scope_may_be_for_one_model() -> None:
    caller = Caller("ann", frozenset({"chat:support", "data:write:support", "run:read"}))
    assert caller.may("chat", "support")
    assert not caller.may("chat", "sales")
    assert not caller.may("chat")
    assert caller.may("data:write", "support")
    assert not caller.may("data:read", "support")
    assert caller.may("run:read", "sales")
    assert caller.models("chat") == {"support"}


@pytest.mark.parametrize(
    "word", ["admin:support", "chat:", "chat:Support", "chat:a:b", "chat:*", ":chat", "data:support"]
)
def test_what_is_no_scope(word: str) -> None:
    with pytest.raises(ValueError, match="unknown scope"):
        mint(ED, "ann", [word], 60)


def _file(folder: Path, *keys: Key) -> KeyFile:
    file = folder / "jwks.json"
    file.write_text(json.dumps({"keys": [key.as_dict(private=False) for key in keys]}))
    return KeyFile(file)


def test_our_own_tokens_can_be_revoked() -> None:
    claims = jwt.decode(mint(ED, "ann", ["chat"], 60), ED, algorithms=["Ed25519"]).claims
    assert claims["jti"]
