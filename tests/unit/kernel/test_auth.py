"""Tokens: only our keys, our issuer, our audience, our algorithm, in time, and with the scope of the route."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, OKPKey

from shared.contracts.errors import Unauthenticated
from shared.http.auth import requires
from shared.http.jwks import KeyFile
from shared.http.minting import SCOPES
from shared.http.tokens import Authenticator, Caller, mint

KEY = OKPKey.generate_key("Ed25519", parameters={"kid": "k1", "use": "sig", "alg": "Ed25519"})
STRANGER = OKPKey.generate_key("Ed25519", parameters={"kid": "k1", "use": "sig", "alg": "Ed25519"})


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(KeySet([KEY]).as_dict(private=False)))
    return file


@pytest.fixture
def authenticator(key_file: Path) -> Authenticator:
    return Authenticator(KeyFile(key_file), "driftwheel", "driftwheel")


def token(key: Any = KEY, alg: str = "Ed25519", **changes: Any) -> str:
    claims = {
        "iss": "driftwheel",
        "aud": "driftwheel",
        "sub": "ann",
        "scope": "chat",
        "exp": int(time.time()) + 60,
    }
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return jwt.encode({"alg": alg, "kid": "k1"}, claims, key, algorithms=[alg])


async def test_a_minted_token_is_accepted(authenticator: Authenticator) -> None:
    caller = await authenticator.caller(f"Bearer {mint(KEY, 'ann', ['chat', 'feedback'], 60)}")
    assert caller == Caller("ann", frozenset({"chat", "feedback"}))
    assert caller.may("chat")
    assert not caller.may("data:write")


def test_admin_may_everything() -> None:
    assert all(Caller("root", frozenset({"admin"})).may(scope) for scope in SCOPES)


def unsigned() -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {
        "iss": "driftwheel",
        "aud": "driftwheel",
        "sub": "ann",
        "scope": "admin",
        "exp": int(time.time()) + 60,
    }
    return f"{part({'alg': 'none'})}.{part(claims)}."


BAD = {
    "none": lambda: None,
    "basic": lambda: "Basic YTpi",
    "garbage": lambda: "Bearer a.b.c",
    "empty": lambda: "Bearer ",
    "unsigned": lambda: f"Bearer {unsigned()}",
    "expired": lambda: f"Bearer {token(exp=int(time.time()) - 3_600)}",
    "no-expiry": lambda: f"Bearer {token(exp=None)}",
    "other-issuer": lambda: f"Bearer {token(iss='evil')}",
    "other-audience": lambda: f"Bearer {token(aud='other')}",
    "no-subject": lambda: f"Bearer {token(sub=None)}",
    "stranger's-key": lambda: f"Bearer {token(STRANGER)}",
    "public-key-as-hmac-secret": lambda: (
        f"Bearer {token(OctKey.import_key(json.dumps(KEY.as_dict(private=False))), 'HS256')}"
    ),
    "scope-is-a-list": lambda: f"Bearer {token(scope=['admin'])}",
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_tokens_are_refused_without_detail(authenticator: Authenticator, case: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await authenticator.caller(BAD[case]())
    assert "driftwheel token" in refused.value.next_step


async def test_unknown_scopes_give_nothing(authenticator: Authenticator) -> None:
    assert (await authenticator.caller(f"Bearer {token(scope='root everything')}")).scopes == frozenset()
    with pytest.raises(ValueError, match="unknown scope"):
        mint(KEY, "ann", ["everything"], 60)
    with pytest.raises(ValueError, match="unknown scope"):
        requires("everything")


async def test_keys_rotate_without_a_restart(
    authenticator: Authenticator, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await authenticator.caller(f"Bearer {token()}")).subject == "ann"
    key_file.write_text(json.dumps(KeySet([STRANGER]).as_dict(private=False)))
    later = time.monotonic() + 60
    monkeypatch.setattr("shared.http.jwks.time.monotonic", lambda: later)
    with pytest.raises(Unauthenticated):
        await authenticator.caller(f"Bearer {token()}")
    assert (await authenticator.caller(f"Bearer {token(STRANGER)}")).subject == "ann"
