"""Bad input at an HTTP door: refused with 4xx and a reason, never echoed, never a 500."""

import json
from typing import Annotated, Any

import psycopg
import pytest
from aiokafka.errors import KafkaConnectionError
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import Field
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shared.contracts.errors import GateRefused, NotFound, Unavailable
from shared.contracts.text import Contract, Text
from shared.http.bodies import BodyGuard
from shared.http.problems import install_errors

SECRET = "the-customer's-secret"


class Body(Contract):
    text: Annotated[Text, Field(max_length=100)]
    share: float = Field(ge=0, le=1)


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.add_middleware(BodyGuard, limit=10_000)
    install_errors(app)

    @app.post("/things")
    @app.post("/v1/things")
    async def things(body: Body) -> dict[str, Any]:
        return body.model_dump()

    @app.get("/missing")
    @app.get("/v1/missing")
    async def missing() -> None:
        raise NotFound("There is no such thing.", "List them.")

    @app.get("/away")
    async def away() -> None:
        raise Unavailable("The store does not answer.", "Try again.")

    @app.get("/gate")
    async def gate() -> None:
        raise GateRefused("The gate said no.")

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError(SECRET)

    @app.get("/fails/{name}")
    async def fails(name: str) -> None:
        raise FAILURES[name]

    return TestClient(app, raise_server_exceptions=False)


FAILURES: dict[str, Exception] = {
    "no connection": psycopg.OperationalError("connection refused"),
    "no connection, wrapped": DBAPIError("SELECT", None, psycopg.OperationalError("connection refused")),
    "no connection free": PoolTimeout(),
    "server stops": psycopg.errors.AdminShutdown(),
    "deadlock": psycopg.errors.DeadlockDetected(),
    "broker away": KafkaConnectionError(),
    "connection reset": ConnectionResetError(),
    "too late": TimeoutError(),
}


BAD_BODIES: dict[str, bytes] = {
    "not json": SECRET.encode(),
    "NaN": b'{"text": "%s", "share": NaN}' % SECRET.encode(),
    "Infinity": b'{"text": "%s", "share": Infinity}' % SECRET.encode(),
    "1e999": b'{"text": "%s", "share": 1e999}' % SECRET.encode(),
    "lone surrogate": b'{"text": "\\ud800 %s", "share": 1}' % SECRET.encode(),
    "surrogate key": b'{"\\ud800": 1, "text": "%s", "share": 1}' % SECRET.encode(),
    "NUL": b'{"text": "\\u0000 %s", "share": 1}' % SECRET.encode(),
    "duplicate key": b'{"text": "%s", "text": "b", "share": 1}' % SECRET.encode(),
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 500 + b"1" + b"}" * 500,
    "long number": b'{"text": "a", "share": %s}' % (b"9" * 5_000),
    "BOM": b"\xef\xbb\xbf{}",
    "not utf-8": b"\xff\xfe",
    "too large": b'{"text": "' + b"x" * 20_000 + b'"}',
    "unknown key": b'{"text": "a", "share": 1, "%s": 1}' % SECRET.encode(),
    "wrong type": b'{"text": ["%s"], "share": 1}' % SECRET.encode(),
    "out of range": b'{"text": "%s", "share": 2}' % SECRET.encode(),
    "too long": json.dumps({"text": SECRET * 100, "share": 1}).encode(),
    "list": b"[]",
    "null": b"null",
    "empty": b"",
}


@pytest.mark.parametrize("path", ["/things", "/v1/things"])
@pytest.mark.parametrize("case", BAD_BODIES)
def test_bad_bodies_are_refused_and_not_echoed(client: TestClient, path: str, case: str) -> None:
    response = client.post(path, content=BAD_BODIES[case], headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500, response.text
    assert SECRET not in response.text
    body = response.json()
    if path.startswith("/v1/"):
        assert body["error"]["message"]
    else:
        assert response.headers["content-type"] == "application/problem+json"
        assert body["detail"]
        assert body["status"] == response.status_code


def test_a_good_body_passes(client: TestClient) -> None:
    assert client.post("/things", json={"text": "grüß dich 🙂", "share": 0.5}).json() == {
        "text": "grüß dich 🙂",
        "share": 0.5,
    }


def test_compressed_bodies_are_refused(client: TestClient) -> None:
    response = client.post("/things", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert response.status_code == 422


@pytest.mark.parametrize(
    ("path", "status", "retryable"), [("/missing", 404, False), ("/away", 503, True), ("/gate", 409, False)]
)
def test_expected_errors_become_problems(client: TestClient, path: str, status: int, retryable: bool) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert response.json()["retryable"] is retryable
    assert ("retry-after" in response.headers) is retryable


@pytest.mark.parametrize("name", FAILURES)
def test_what_passes_by_itself_may_be_tried_again(client: TestClient, name: str) -> None:
    response = client.get(f"/fails/{name}")
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.json()["retryable"] is True


def test_a_key_that_nobody_knows_is_not_repeated(client: TestClient) -> None:
    response = client.post("/things", json={"text": "a", "share": 1, "patient_0815": 1})
    assert response.status_code == 422
    assert "patient" not in response.text


def test_openai_paths_get_openai_errors(client: TestClient) -> None:
    assert client.get("/v1/missing").json()["error"]["code"] == "not_found"
    assert client.get("/v1/nowhere").json()["error"]["type"] == "invalid_request_error"


def test_a_bug_says_nothing_of_itself(client: TestClient) -> None:
    response = client.get("/bug")
    assert response.status_code == 500
    assert SECRET not in response.text
