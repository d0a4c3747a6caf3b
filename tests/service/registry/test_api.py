"""The HTTP edge: policies, names, scopes, and bad input that is refused and never repeated."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.kit import Keys
from tests.service.registry.conftest import MODEL, World, together

SECRET = "hunter2-do-not-echo"
HOSTILE = [
    "..", "../../etc/passwd", "..%2f..%2fetc", "a/b", "a\\b", "a b", "support ", " support", "support\n", "support\r\n",
    "support\x00", "Support", "SUPPORT", "-support", ".support", "_support", "support#fragment", "support?x=1", "support;rm",
    "support'--", 'support"', "<script>", "s" * 49, "s" * 5_000, "ѕupport", "support\u202e", "支持", "%00", "%2e%2e", "support:7",
    "support@champion", "",
]  # fmt: skip


async def test_a_policy_is_declared_once_per_content(world: World) -> None:
    first = await world.declare(description="one")
    assert (first["revision"], first["changed"], first["actor"]) == (1, True, "tester")
    again = await world.declare(description="one")
    assert (again["revision"], again["changed"]) == (1, False)
    second = await world.declare(description="two")
    assert (second["revision"], second["changed"]) == (2, True)
    declared = await world.announced("model.declared")
    assert [(one["revision"], one["policy"]["description"]) for one in declared] == [(1, "one"), (2, "two")]
    assert (await world.get(f"/policies/{MODEL}"))["policy"]["description"] == "two"
    assert (await world.get(f"/policies/{MODEL}", revision=1))["policy"]["description"] == "one"
    assert (await world.http.get(f"/policies/{MODEL}", params={"revision": 3})).status_code == 404
    assert [one["revision"] for one in (await world.get("/policies"))["policies"]] == [2]
    assert [one["name"] for one in (await world.get("/models"))["models"]] == [MODEL]


async def test_defaults_written_out_are_the_same_policy(world: World) -> None:
    first = await world.declare()
    again = await world.post("/policies", first["policy"])
    assert (again["revision"], again["changed"]) == (1, False)


async def test_the_same_policy_at_once_is_one_revision(world: World) -> None:
    answers = await together(*(world.declare() for _ in range(5)))
    assert sorted(answer["changed"] for answer in answers) == [False] * 4 + [True]
    assert len(await world.announced("model.declared")) == 1


async def test_a_refused_policy_names_path_and_reason(world: World) -> None:
    answer = await world.http.post("/policies", json={"model": MODEL, "ramp": {"steps": [50, 5]}})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "ramp: steps must rise and end at 100"


async def test_hostile_names(world: World) -> None:
    await world.declare()
    for name in HOSTILE:
        body = await world.http.post("/policies", json={"model": name})
        assert body.status_code in (400, 422), name
        for path in (
            "/models/{}",
            "/policies/{}",
            "/models/{}/versions",
            "/models/{}/aliases",
            "/models/{}/rollback",
            "/policies/{}/revisions",
        ):
            answer = await world.http.get(path.format(quote(name, safe="")))
            # What decodes to a slash names another route, or none; an empty name is the list.
            assert answer.status_code in (400, 404, 422) or name == "" or "/" in name, (path, name)
            assert answer.status_code < 500
            assert "root:" not in answer.text
    assert [one["name"] for one in (await world.get("/models"))["models"]] == [MODEL]


BEYOND = [
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
]
BAD: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b'{"model": NaN}',
    b'{"model": "m", "recipe": {"learning_rate": NaN}}',
    b'{"model": "m", "recipe": {"learning_rate": 1e999}}',
    b'{"model": "m", "recipe": {"learning_rate": -Infinity}}',
    b'{"model": "m", "description": "\\ud800"}',
    b'{"model": "m", "description": "\\u0000"}',
    b'{"model": "m", "model": "n"}',
    b"\xef\xbb\xbf" + b'{"model": "m"}',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"model": "m", "recipe": {"rank": ' + b"9" * 5_000 + b"}}",
    b'{"model": "m", "gates": [' + b'{"name":"g","at_least":1},' * 20_000 + b"]}",
    json.dumps({"model": "m", "colour": SECRET}).encode(),
    json.dumps({"model": SECRET + "!"}).encode(),
    json.dumps({"model": "m", "recipe": {"targets": [SECRET + "!"]}}).encode(),
    json.dumps({"model": "m", "description": SECRET * 1_000}).encode(),
    b'{"model": "m", "padding": "' + b"x" * 2_000_000 + b'"}',
]


@pytest.mark.parametrize("path", ["/policies", f"/models/{MODEL}/rollback"])
async def test_bad_bodies_are_refused_without_an_echo(world: World, path: str) -> None:
    await world.declare()
    for body in BAD:
        answer = await world.http.post(path, content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, body[:60]
        assert answer.headers["content-type"] == "application/problem+json"
        assert len(answer.content) < 2_000
        assert SECRET not in answer.text
    assert [(one["name"], one["revision"]) for one in (await world.get("/models"))["models"]] == [(MODEL, 1)]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
async def test_other_content_types_are_refused(world: World, kind: str) -> None:
    answer = await world.http.post("/policies", content=b'{"model": "m"}', headers={"content-type": kind})
    assert answer.status_code in (415, 422)


@pytest.mark.parametrize("number", ["0", "-1", "1e3", "x", "9" * 30, "1.5", "2147483648", "%00"])
async def test_odd_version_numbers(world: World, number: str) -> None:
    await world.declare()
    answer = await world.http.get(f"/models/{MODEL}/versions/{number}")
    assert answer.status_code == 422


@pytest.mark.parametrize("at", ["yesterday", "9" * 30, "2026-13-01T00:00:00Z", "\x00", "NaN", "0.5", *BEYOND])
async def test_odd_times(world: World, at: str) -> None:
    await world.declare()
    answer = await world.http.get(f"/models/{MODEL}/aliases", params={"at": at})
    assert answer.status_code == 422


ROUTES: list[tuple[str, str, str]] = [
    ("GET", "/policies", "model:read"),
    ("GET", f"/policies/{MODEL}", "model:read"),
    ("GET", "/models", "model:read"),
    ("GET", f"/models/{MODEL}", "model:read"),
    ("GET", f"/models/{MODEL}/versions", "model:read"),
    ("GET", f"/models/{MODEL}/versions/1", "model:read"),
    ("GET", f"/models/{MODEL}/versions/1/traffic", "model:read"),
    ("GET", f"/models/{MODEL}/versions/1/card", "model:read"),
    ("GET", f"/models/{MODEL}/aliases", "model:read"),
    ("GET", f"/models/{MODEL}/rollback", "model:read"),
    ("GET", f"/policies/{MODEL}/revisions", "model:read"),
    ("POST", "/policies", "model:write"),
    ("POST", f"/models/{MODEL}/rollback", "model:write"),
]


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
async def test_scopes(world: World, token: Callable[..., str], method: str, path: str, scope: str) -> None:
    async def status(headers: dict[str, str]) -> int:
        request: dict[str, Any] = {"json": {}} if method == "POST" else {}
        return int((await world.http.request(method, path, headers=headers, **request)).status_code)

    other = "model:write" if scope == "model:read" else "model:read"
    assert await status({"authorization": ""}) == 401
    assert await status({"authorization": f"Bearer {token(other, 'chat', 'run:write')}"}) == 403
    assert await status({"authorization": f"Bearer {token(scope)}"}) not in (401, 403)


async def test_a_scope_for_one_model_declares_and_reads_that_one(world: World, keys: Keys) -> None:
    await world.declare()
    ours, other = (keys.headers(f"model:read:{name}", f"model:write:{name}") for name in (MODEL, "other"))

    async def status(method: str, path: str, headers: dict[str, str], body: Any = None) -> int:
        return int((await world.http.request(method, path, headers=headers, json=body)).status_code)

    for headers, expected in ((ours, 200), (other, 403)):
        assert await status("POST", "/policies", headers, {"model": MODEL}) == expected
        assert await status("GET", f"/models/{MODEL}", headers) == expected
        assert await status("GET", f"/models/{MODEL}?model=other", headers) == expected
        listed = (await world.http.get("/models?model=other", headers=headers)).json()["models"]
        assert [one["name"] for one in listed] == ([MODEL] if expected == 200 else [])


async def test_lists_show_a_token_for_one_model_that_one(world: World, keys: Keys) -> None:
    await world.declare()
    other = await world.http.post("/policies", json={"model": "other"})
    assert other.status_code == 200
    for path, name, key in (("/models", "models", "name"), ("/policies", "policies", "model")):
        seen = {}
        for scope in ("model:read:other", "model:read:nobody", "model:read"):
            answer = await world.http.get(path, headers=keys.headers(scope))
            seen[scope] = [one[key] for one in answer.json()[name]]
        assert seen == {
            "model:read:other": ["other"],
            "model:read:nobody": [],
            "model:read": sorted(["other", MODEL]),
        }
