"""Feedback, rollouts and adapters over HTTP."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from services.serving.api import make_api
from services.serving.gateway import Gateway
from services.serving.settings import Settings
from services.serving.upstream import Upstream
from shared.artifacts.objects import S3Objects
from shared.contracts.events import FeedbackRecorded, RolloutChanged
from shared.delivery.bus import make_broker
from shared.delivery.unit_of_work import Database
from shared.service.clock import SystemClock
from shared.service.runtime import make_app
from tests.kit import Keys
from tests.service.serving.conftest import sent, served
from tests.service.serving.story import Story, approved, declared, engine_name, promoted
from tests.service.serving.test_predictions import served as an_answer

CANARY = "c4n4ry-in-the-body"


class Door:
    """The API of a story."""

    def __init__(self, url: str, story: Story, keys: Keys) -> None:
        self.url, self.story, self.keys = url, story, keys

    async def call(
        self, method: str, path: str, body: Any = None, scope: str = "admin", **more: str
    ) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", **self.keys.headers(scope, subject="ann"), **more}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.url}{path}", data=data, headers=headers) as response,
        ):
            raw = await response.read()
            return response.status, json.loads(raw) if raw else None

    def answered(self) -> str:
        self.story.log.add(one := an_answer())
        return one.event.answer_id


@pytest.fixture
async def door(
    db: Database, objects: S3Objects, keys: Keys, make_settings: Callable[..., Settings]
) -> AsyncIterator[Door]:
    settings, story, clock = make_settings(database_url=db.url), Story.begin(db, objects), SystemClock()
    gateway = Gateway(settings, story.live, Upstream(settings), story.log, clock)
    app = make_app(
        "serving",
        settings,
        db,
        make_broker(settings, db, "serving", []),
        [make_api(story.service, gateway, story.live, story.judgements())],
    )
    async with served(app) as url:
        yield Door(url, story, keys)


@pytest.mark.parametrize("prefix", ["", "chatcmpl-", "cmpl-"])
async def test_feedback(door: Door, prefix: str) -> None:
    answer_id = door.answered()
    body = {"answer_id": prefix + answer_id, "correct": False, "corrected": "card_arrival"}
    status, kept = await door.call("POST", "/v1/feedback", body, "feedback")
    assert status == 200
    assert (kept["answer_id"], kept["score"], kept["corrected"], kept["actor"]) == (
        answer_id,
        0,
        "card_arrival",
        "ann",
    )
    assert await door.call("POST", "/v1/feedback", body, "feedback") == (200, kept)
    status, problem = await door.call("POST", "/v1/feedback", {**body, "correct": True}, "feedback")
    assert (status, problem["error"]["code"]) == (409, "conflict")
    assert [event.feedback_id for event in await sent(door.story.db, FeedbackRecorded)] == [
        kept["feedback_id"]
    ]


async def test_feedback_for_an_unknown_answer_is_404(door: Door) -> None:
    body = {"answer_id": "0" * 8 + "-0000-7000-8000-" + "0" * 12, "score": 1}
    status, problem = await door.call("POST", "/v1/feedback", body, "feedback")
    assert (status, problem["error"]["code"]) == (404, "not_found")


HOSTILE = [
    b"",
    b"null",
    b"[]",
    b'{"answer_id": NaN}',
    b"[" * 100_000,
    *(
        json.dumps(body).encode()
        for body in (
            {},
            {"answer_id": CANARY, "score": 1},
            {"answer_id": f"../{CANARY}", "score": 1},
            {"answer_id": "' OR 1=1 --", "score": 1},
        )
    ),
]
WRONG: list[dict[str, Any]] = [
    {"score": 1.01},
    {"score": -1},
    {"score": CANARY},
    {"score": 1e400},
    {"score": 1, "correct": True},
    {"score": None},
    {"correct": CANARY},
    {"score": 1, "corrected": ""},
    {"score": 1, "corrected": CANARY * 1_000},
    {"score": 1, "corrected": "\ud800"},
    {"score": 1, "corrected": "\x00"},
    {"score": 1, "corrected": [CANARY]},
    {"score": 1, "actor": CANARY},
    {"score": 1, CANARY: 1},
]


@pytest.mark.parametrize("raw", HOSTILE)
async def test_hostile_feedback_is_4xx_without_an_echo(door: Door, raw: bytes) -> None:
    status, problem = await door.call("POST", "/v1/feedback", raw, "feedback")
    assert 400 <= status < 500
    assert CANARY not in json.dumps(problem)


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_feedback_is_4xx_without_an_echo(door: Door, wrong: dict[str, Any]) -> None:
    status, problem = await door.call(
        "POST", "/v1/feedback", {"answer_id": door.answered(), **wrong}, "feedback"
    )
    assert 400 <= status < 500
    assert problem["error"]["type"] == "invalid_request_error"
    assert CANARY in wrong or CANARY not in json.dumps(problem)
    assert await sent(door.story.db, FeedbackRecorded) == []


async def test_rollouts_are_shown_and_aborted(door: Door) -> None:
    await door.story.hears(declared(), approved(1), promoted(1, 1), approved(2))
    await door.story.has_ready(1, 2)
    await door.story.ticks()
    status, listed = await door.call("GET", "/rollouts?model=support", scope="model:read")
    running = next(one for one in listed["rollouts"] if one["model_version"] == 2)
    assert (status, running["state"], running["weight"]) == (200, "running", 5)
    assert not {"salt", "cause"} & running.keys()
    await door.story.serves(running["id"], "challenger", 3, errors=1)
    _, shown = await door.call("GET", f"/rollouts/{running['id']}", scope="model:read")
    assert [(arm["model_version"], arm["answers"], arm["errors"]) for arm in shown["statistics"]] == [
        (2, 3, 1),
        (1, 0, 0),
    ]
    path = f"/rollouts/{running['id']}/abort"
    assert (await door.call("POST", path, {"reason": "x"}, "model:read"))[0] == 403
    for body in ({}, {"reason": ""}, {"reason": "x" * 501}, {"reason": "x", "force": True}, {"reason": 7}):
        assert (await door.call("POST", path, body, "model:write"))[0] == 422
    status, ended = await door.call("POST", path, {"reason": "it smells"}, "model:write")
    assert (status, ended["state"], ended["weight"], ended["reason"]) == (
        200,
        "rolled_back",
        0,
        "Aborted by ann: it smells",
    )
    assert (await door.call("POST", path, {"reason": "again"}, "model:write"))[0] == 409
    assert [event.state for event in await sent(door.story.db, RolloutChanged)] == ["started", "rolled_back"]


async def test_rollouts_are_paused_and_resumed(door: Door) -> None:
    await door.story.hears(declared(), approved(1), promoted(1, 1), approved(2))
    await door.story.has_ready(1, 2)
    await door.story.ticks()
    rollout = await door.story.rollout(2)
    path = f"/rollouts/{rollout.id}"
    for verb in ("pause", "resume"):
        assert (await door.call("POST", f"{path}/{verb}", {"reason": "x"}, "model:read"))[0] == 403
    for body in ({}, {"reason": ""}, {"reason": "x" * 501}, {"reason": "x", "for": 3}):
        assert (await door.call("POST", f"{path}/pause", body, "model:write"))[0] == 422
    for _ in range(2):
        status, paused = await door.call("POST", f"{path}/pause", {"reason": "look at it"}, "model:write")
        assert (status, paused["weight"], paused["reason"]) == (200, 5, "Paused by ann: look at it")
        assert paused["paused_at"]
    for _ in range(2):
        status, resumed = await door.call("POST", f"{path}/resume", {}, "model:write")
        assert (status, resumed["state"], resumed["paused_at"]) == (200, "running", None)
    await door.story.serves(rollout.id, "challenger", 3, scores=[1, 0])
    _, shown = await door.call("GET", path, scope="model:read")
    assert [change["state"] for change in shown["changes"]] == ["planned", "started", "paused", "resumed"]
    assert [step["state"] for step in shown["steps"]] == ["present", "ahead", "ahead", "ahead"]
    assert shown["judgement"]["needs"][0] == {"what": "challenger answers", "have": 3, "need": 30}
    assert shown["judgement"]["arms"][0]["score"]["value"] == 0.5
    _, newest = await door.call("GET", "/rollouts?limit=1", scope="model:read")
    _, older = await door.call("GET", f"/rollouts?after={newest['rollouts'][0]['id']}", scope="model:read")
    assert [one["model_version"] for one in newest["rollouts"] + older["rollouts"]] in ([2, 1], [1, 2])
    assert (newest["has_more"], older["has_more"]) == (True, False)


@pytest.mark.parametrize(
    "path",
    ["/rollouts/x", "/rollouts/%00", "/rollouts/..%2f..%2fetc", "/rollouts?limit=-1", "/rollouts?model=A"],
)
async def test_hostile_paths(door: Door, path: str) -> None:
    assert 400 <= (await door.call("GET", path))[0] < 500


async def test_an_unknown_rollout_is_404(door: Door) -> None:
    assert (await door.call("GET", "/rollouts/" + "0" * 36))[0] == 404


async def test_adapters_are_shown(door: Door) -> None:
    await door.story.hears(approved(1))
    status, body = await door.call("GET", "/adapters?model=support", scope="model:read")
    assert status == 200
    assert [(one["engine_name"], one["state"], one["ready"]) for one in body["adapters"]] == [
        (engine_name(1), "wanted", False)
    ]


async def test_every_route_but_the_public_ones_needs_a_token(door: Door) -> None:
    for method, path in (
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/support"),
        ("POST", "/v1/feedback"),
        ("GET", "/rollouts"),
        ("GET", "/rollouts/" + "0" * 36),
        ("POST", "/rollouts/" + "0" * 36 + "/abort"),
        ("POST", "/rollouts/" + "0" * 36 + "/pause"),
        ("POST", "/rollouts/" + "0" * 36 + "/resume"),
        ("GET", "/adapters"),
    ):
        status, _ = await door.call(method, path, {} if method == "POST" else None, authorization="")
        assert status == 401, path


async def test_a_token_for_another_model_sees_no_rollout_and_moves_none(door: Door) -> None:
    await door.story.hears(declared(), approved(1), promoted(1, 1), approved(2))
    await door.story.has_ready(1, 2)
    await door.story.ticks()
    rollout = await door.story.rollout(2)
    path = f"/rollouts/{rollout.id}"
    stop = {"reason": "mine now"}
    assert (await door.call("GET", path, scope="model:read:other"))[0] == 403
    for verb, body in (("pause", stop), ("resume", {}), ("abort", stop)):
        assert (await door.call("POST", f"{path}/{verb}", body, "model:write:other"))[0] == 403
    assert (await door.story.rollout(2)).state == "running"
    assert (await door.call("GET", path, scope="model:read:support"))[0] == 200
    assert (await door.call("POST", f"{path}/pause", stop, "model:write:support"))[0] == 200


async def test_a_token_for_another_model_judges_no_answer_of_this_one(door: Door) -> None:
    answer_id = door.answered()
    body = {"answer_id": answer_id, "correct": False, "corrected": "poison"}
    status, problem = await door.call("POST", "/v1/feedback", body, "feedback:other")
    assert (status, problem["error"]["code"]) == (403, "forbidden")
    assert await sent(door.story.db, FeedbackRecorded) == []
    assert (await door.call("POST", "/v1/feedback", body, "feedback:support"))[0] == 200
