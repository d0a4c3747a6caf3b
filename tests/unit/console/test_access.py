"""Tokens and policies."""

import json
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, OKPKey

from services.console.door import Exit
from shared.contracts.errors import Unauthenticated
from shared.http.jwks import KeyFile
from shared.http.minting import SCOPES
from shared.http.tokens import Authenticator, Revoked
from tests.unit.console.conftest import Command, Door


async def test_a_token_is_one_the_services_accept(nowhere: Command, key: OKPKey, tmp_path: Path) -> None:
    result = nowhere("token", "--scope", "chat", "--scope", "feedback", "--subject", "alice", "--ttl", "1h")
    assert result.exit_code == Exit.OK
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    caller = await Authenticator(KeyFile(jwks), "driftwheel", "driftwheel").caller(
        f"Bearer {result.stdout.strip()}"
    )
    assert caller.subject == "alice"
    assert caller.scopes == {"chat", "feedback"}
    claims = jwt.decode(result.stdout.strip(), key, algorithms=["Ed25519", "EdDSA"]).claims
    assert claims["exp"] - claims["iat"] == 3_600
    assert result.stderr == ""


async def test_open_signs_in_behind_the_hash_where_no_server_sees_it(
    nowhere: Command, key: OKPKey, tmp_path: Path
) -> None:
    result = nowhere("open", "/runs", "--print", DRIFTWHEEL_URL="http://127.0.0.1:1")
    address, _, token = result.stdout.strip().partition("#")
    assert address == "http://127.0.0.1:1/login?next=/runs"
    jwks = tmp_path / "jwks.json"
    jwks.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    caller = await Authenticator(KeyFile(jwks), "driftwheel", "driftwheel").caller(f"Bearer {token}")
    assert caller.may("admin")


def test_a_token_as_json(nowhere: Command, key: OKPKey) -> None:
    told = json.loads(nowhere("token", "--scope", "chat", "--ttl", "2d", "--json").stdout)
    assert {**told, "token": "", "id": ""} == {
        "token": "",
        "id": "",
        "subject": "operator",
        "scopes": ["chat"],
        "seconds": 172_800,
    }


def test_no_key_no_token(nowhere: Command) -> None:
    result = nowhere("token", "--scope", "chat")
    assert result.exit_code == Exit.FAILED
    assert "driftwheel up" in result.stderr


def test_who_we_are_at_the_door(driftwheel: Command, door: Door, key: OKPKey) -> None:
    """DRIFTWHEEL_TOKEN as it is; else a short-lived one with every scope, made with the local key."""
    door.answers["GET", "/api/trainer/runs"] = {"runs": []}
    assert driftwheel("runs", "list", DRIFTWHEEL_TOKEN="mine").exit_code == Exit.OK
    assert driftwheel("runs", "list").exit_code == Exit.OK
    given, made = door.tokens
    assert given == "mine"
    claims = jwt.decode(made, key, algorithms=["Ed25519", "EdDSA"]).claims
    assert set(claims["scope"].split()) == SCOPES
    assert claims["exp"] - claims["iat"] <= 600


def test_the_door_can_be_named(nowhere: Command, key: OKPKey, door: Door) -> None:
    door.answers["GET", "/api/trainer/runs"] = {"runs": []}
    assert nowhere("--url", f"{door.url}/", "runs", "list", "--json").stdout == "[]\n"
    assert nowhere("runs", "list", "--json", DRIFTWHEEL_URL=door.url).stdout == "[]\n"


def test_apply(driftwheel: Command, door: Door, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("model: support\ndrift: {min_score: 0.7}\n")
    answer = {"model": "support", "revision": 2, "changed": True}
    door.answers["POST", "/api/registry/policies"] = answer
    told = driftwheel("apply", str(file))
    assert told.exit_code == Exit.OK
    assert "support declared, revision 2" in told.stdout
    assert door.bodies == [{"model": "support", "drift": {"min_score": 0.7}}]
    assert json.loads(driftwheel("apply", str(file), "--json").stdout) == answer


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, Exit.NOT_FOUND),
        ("{unclosed: [", Exit.USAGE),
        ("just text", Exit.USAGE),
        ("", Exit.USAGE),
        ("!!python/object/apply:os.system ['true']", Exit.USAGE),
        ("\xff", Exit.USAGE),
    ],
)
def test_apply_refuses_what_is_no_policy(
    driftwheel: Command, door: Door, content: str | None, code: Exit
) -> None:
    file = driftwheel.home / "policy.yaml"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    result = driftwheel("apply", str(file))
    assert result.exit_code == code, result.output
    assert result.stderr
    assert door.asked == []


async def test_a_token_for_one_model(nowhere: Command, key: OKPKey, tmp_path: Path) -> None:
    told = nowhere("token", "--scope", "chat", "--scope", "data:write", "--model", "support")
    caller = await verifies(key, tmp_path).caller(f"Bearer {told.stdout.strip()}")
    assert caller.scopes == {"chat:support", "data:write:support"}


@pytest.mark.parametrize("by_id", [True, False])
async def test_a_revoked_token_is_refused(nowhere: Command, key: OKPKey, tmp_path: Path, by_id: bool) -> None:
    told = json.loads(nowhere("token", "--scope", "chat", "--json").stdout)
    other = nowhere("token", "--scope", "chat").stdout.strip()
    assert nowhere("token", "revoke", told["id"] if by_id else told["token"]).exit_code == Exit.OK
    checks = verifies(key, tmp_path)
    with pytest.raises(Unauthenticated):
        await checks.caller(f"Bearer {told['token']}")
    assert (await checks.caller(f"Bearer {other}")).may("chat")


@pytest.mark.parametrize("text", ["", "a.b.c", "x\ny", "a b", "é", "e30.e30.x"])
def test_what_is_no_token_cannot_be_revoked(nowhere: Command, key: OKPKey, text: str) -> None:
    assert nowhere("token", "revoke", text).exit_code == Exit.USAGE
    assert not (nowhere.home / "revoked.txt").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--scope", "everything"),
        ("--scope", "admin", "--model", "support"),
        ("--scope", "chat", "--ttl", "32d"),
        ("--scope", "chat", "--subject", "a\x1b[2J"),
    ],
)
def test_a_token_that_no_service_would_take_is_not_made(
    nowhere: Command, key: OKPKey, arguments: tuple[str, ...]
) -> None:
    assert nowhere("token", *arguments).exit_code == Exit.USAGE


def verifies(key: OKPKey, folder: Path) -> Authenticator:
    jwks = folder / "jwks.json"
    jwks.write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    return Authenticator(KeyFile(jwks), "driftwheel", "driftwheel", revoked=Revoked(folder / "revoked.txt"))
