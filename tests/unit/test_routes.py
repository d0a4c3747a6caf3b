"""No route without a scope: the services are assembled as they run, and every route is looked at."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from joserfc.jwk import OKPKey

from infra.docs.surfaces import assembled
from shared.contracts.topology import SERVICES
from shared.http.minting import SCOPES
from shared.http.tokens import mint
from shared.service.runtime import PUBLIC_PATHS
from tests.scopes import routes


@pytest.fixture(scope="module")
def key() -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"use": "sig", "alg": "Ed25519"}, auto_kid=True)


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory, key: OKPKey) -> dict[str, FastAPI]:
    """Every service, assembled; nothing is started, so nothing is connected to."""
    return assembled(tmp_path_factory.mktemp("apps"), key)


@pytest.mark.parametrize("service", SERVICES)
def test_every_route_demands_a_scope(apps: dict[str, FastAPI], service: str) -> None:
    found = list(routes(apps[service]))
    assert {route.path for route in found if not route.scopes} == set(PUBLIC_PATHS) & {r.path for r in found}
    assert len([route for route in found if route.scopes]) > 4, "the routes of the service itself are seen"


@pytest.mark.parametrize("service", SERVICES)
def test_without_a_token_every_route_says_401(apps: dict[str, FastAPI], service: str) -> None:
    client = TestClient(apps[service], raise_server_exceptions=False)
    for route in routes(apps[service]):
        if route.path not in PUBLIC_PATHS:
            path = re.sub(r"\{[^}]*\}", "1", route.path)
            answer = client.request(route.method, path)
            assert answer.status_code == 401, f"{route.method} {path}: {answer.status_code}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_scope_for_one_model_reaches_no_other(apps: dict[str, FastAPI], service: str, key: OKPKey) -> None:
    """Every scope, but for another model. Each route has one of three rules: it names its model, and says 403 at once; it
    learns of its model later (below), where tests of the service look at what it says then; or it is about every model."""
    scopes = [f"{scope}:other" for scope in SCOPES - {"admin"}]
    headers = {"authorization": f"Bearer {mint(key, 'ann', scopes, 600)}"}
    client = TestClient(apps[service], raise_server_exceptions=False)
    for route in routes(apps[service]):
        if route.path in PUBLIC_PATHS:
            continue
        rules = {
            "by its parameter": route.by_model,
            "LEARNS_ITS_MODEL": (route.method, route.path) in LEARNS_ITS_MODEL,
            "OF_EVERY_MODEL": (route.method, route.path) in OF_EVERY_MODEL,
        }
        assert sum(rules.values()) == 1, f"{route.method} {route.path} has not one rule: {rules}"
        path = re.sub(r"\{model\}", "support", route.path)
        answer = client.request(route.method, re.sub(r"\{[^}]*\}", "1", path), headers=headers, json={})
        if route.by_model:
            assert "model" in route.parameters, (
                f"{route.path}: `model` is checked, but the route does not use it"
            )
        if not rules["LEARNS_ITS_MODEL"]:
            assert answer.status_code == 403, f"{route.method} {route.path}: {answer.status_code}"


def test_no_rule_is_for_a_route_that_is_not_there(apps: dict[str, FastAPI]) -> None:
    there = {(route.method, route.path) for app in apps.values() for route in routes(app)}
    assert there >= LEARNS_ITS_MODEL | OF_EVERY_MODEL
    assert not LEARNS_ITS_MODEL & OF_EVERY_MODEL


LEARNS_ITS_MODEL = {
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("POST", "/v1/files"),
    ("POST", "/v1/feedback"),
    ("GET", "/rollouts/{rollout_id}"),
    ("POST", "/rollouts/{rollout_id}/abort"),
    ("POST", "/rollouts/{rollout_id}/pause"),
    ("POST", "/rollouts/{rollout_id}/resume"),
    ("POST", "/datasets"),
    ("GET", "/datasets/{any_id}"),
    ("POST", "/datasets/{any_id}/cancel"),
    ("GET", "/datasets/{any_id}/diff"),
    ("POST", "/v1/fine_tuning/jobs"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}"),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"),
    ("GET", "/v1/fine_tuning/jobs"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/events"),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/checkpoints"),
    ("GET", "/runs/comparison"),
    ("GET", "/runs/curves"),
    ("GET", "/runs/{run_id}"),
    ("GET", "/runs/{run_id}/entries"),
    ("GET", "/runs/{run_id}/stream"),
    ("POST", "/runs/{run_id}/cancel"),
    ("GET", "/evaluations/{evaluation_id}"),
    ("GET", "/evaluations/{evaluation_id}/answers"),
    ("POST", "/policies"),
    ("GET", "/policies"),
    ("GET", "/models"),
    ("GET", "/windows/{window_id}"),
    ("GET", "/drifts/{drift_id}"),
    ("GET", "/reports/{window_id}.html"),
    ("GET", "/reports/{window_id}.json"),
}
"""These find the model in the body or in what they look up, and then demand the scope for it; lists leave the rest out."""

OF_EVERY_MODEL = {
    ("GET", "/consumers"),
    ("POST", "/consumers/{topic}/resume"),
    ("GET", "/dead-letters"),
    ("POST", "/dead-letters/redrive"),
    ("GET", "/dead-letters/{event_id:path}"),
    ("POST", "/dead-letters/{event_id:path}/redrive"),
    ("GET", "/events"),
    ("GET", "/outbox"),
    ("POST", "/outbox/retry"),
    ("GET", "/pulse"),
    ("POST", "/replay"),
    ("POST", "/restatements"),
    ("GET", "/stories"),
    ("POST", "/subjects/erase"),
    ("GET", "/trace/{any_id:path}"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/{file_id}"),
}
"""These are about the platform, or about what belongs to no model: their scope must reach every one."""


@pytest.mark.parametrize("service", SERVICES)
def test_the_openapi_document_can_be_read_by_others(apps: dict[str, FastAPI], service: str) -> None:
    document = apps[service].openapi()
    patterns = list(_values(document, "pattern"))
    assert patterns
    assert not [one for one in patterns if re.search(r"\\[AZz]", one)], "anchors of ECMA 262 are ^ and $"
    for reference in _values(document, "$ref"):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in found, f"{reference} leads nowhere"
            found = found[part]


def _values(document: Any, key: str) -> Iterator[str]:
    if isinstance(document, dict):
        for name, item in document.items():
            if name == key and isinstance(item, str):
                yield item
            yield from _values(item, key)
    elif isinstance(document, list):
        for item in document:
            yield from _values(item, key)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_serves_its_asyncapi(apps: dict[str, FastAPI], service: str) -> None:
    document = TestClient(apps[service]).get("/asyncapi.json").json()
    assert document["asyncapi"].startswith("3.")
    groups = {channel.get("x-consumer-group") for channel in document["channels"].values()}
    assert all(group and group.startswith(f"{service}.") for group in groups)
