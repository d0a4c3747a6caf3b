"""The HTTP edge: evaluations for those who may read them; bad input is refused."""

from collections.abc import Callable

import pytest

from tests.service.evaluator.conftest import MODEL, World


async def test_scopes(world: World, token: Callable[..., str]) -> None:
    for path in ("/evaluations", "/evaluations/eval-1", "/evaluations/eval-1/answers"):
        for headers, expected in (
            ({"authorization": ""}, 401),
            ({"authorization": f"Bearer {token('model:read', 'chat')}"}, 403),
        ):
            assert (await world.http.get(path, headers=headers)).status_code == expected


async def test_nothing_yet(world: World) -> None:
    assert (await world.http.get("/evaluations", params={"model": MODEL})).json() == {"evaluations": []}
    answer = await world.http.get("/evaluations/eval-1")
    assert answer.status_code == 404
    assert answer.json()["next_step"]


@pytest.mark.parametrize(
    "query",
    [
        "model=..%2F",
        "model=Support",
        "model=%00",
        "model=",
        "limit=0",
        "limit=-1",
        "limit=1e9",
        "limit=99999999999999999999",
    ],
)
async def test_bad_queries(world: World, query: str) -> None:
    answer = await world.http.get(f"/evaluations?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "name", ["%00", "..", "a%20b", "%ED%A0%80", "x" * 5_000, "'; drop table evaluation; --"]
)
async def test_bad_ids(world: World, name: str) -> None:
    assert (await world.http.get(f"/evaluations/{name}")).status_code in (307, 404, 422)
