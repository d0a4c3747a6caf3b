"""The HTTP door of the monitor: what it shows, to whom, and how it meets bad questions."""

from collections.abc import Callable

import pytest

from tests.service.monitor.conftest import BANK, TRAVEL, World
from tests.service.monitor.events import MODEL, declared, promoted, scored, served

PATHS = [
    "/watched",
    "/windows?model=support",
    "/windows/w",
    "/drifts",
    "/drifts/d",
    "/reports/w.html",
    "/reports/w.json",
]


async def test_windows_and_drifts(world: World) -> None:
    await world.live_through(BANK, right=1.0)
    await world.live_through(TRAVEL, right=0.0)
    newest, first = await world.windows()
    assert await world.get(f"/windows/{newest['id']}") == newest
    assert (first["drifted"], first["hurt"], first["verdict"], first["page"]) == (False, False, "none", None)
    assert (newest["drifted"], newest["hurt"], newest["verdict"]) == (True, True, "retrain")
    assert newest["score"] >= newest["bar"] >= 0.65
    [drift] = (await world.get("/drifts", model=MODEL))["drifts"]
    assert drift["verdict"] == "retrain"
    assert (await world.get(f"/drifts/{drift['id']}"))["window"] == newest
    assert (await world.get("/drifts", model="other"))["drifts"] == []
    assert len((await world.get("/windows", model=MODEL, limit=1))["windows"]) == 1
    no_page = await world.http.get(f"/reports/{first['id']}.html")
    assert no_page.status_code == 404
    assert "Only a drifted window" in no_page.text
    assert (await world.get("/drifts", window=[newest["id"], first["id"]]))["drifts"] == [drift]
    assert (await world.get("/drifts", window=first["id"]))["drifts"] == []
    assert (await world.get("/windows", after=newest["id"])) == {"windows": [first], "has_more": False}
    assert (await world.get("/windows", limit=1))["has_more"] is True
    assert (await world.get("/windows", after=first["id"]))["windows"] == []
    assert (await world.get("/drifts", after=drift["id"]))["drifts"] == []
    assert newest["score_interval"]["low"] == 0 < newest["score_interval"]["high"] < 0.2


async def test_what_is_watched(world: World) -> None:
    await world.tell(declared(model="silent"), promoted(world.dataset, sequence=2, version=5, quality=0.8))
    silent, support = (await world.get("/watched"))["watched"]
    assert (silent["model"], silent["champion"], silent["promised"]) == ("silent", None, None)
    assert (support["champion"], support["promised"], support["retrain"]["cooldown_seconds"]) == (5, 0.8, 600)
    assert (await world.get("/watched", model="silent"))["watched"] == [silent]


async def test_the_numbers_of_a_window_say_which_words_are_new(world: World) -> None:
    await world.live_through(TRAVEL, right=None)
    [window] = await world.windows()
    numbers = await world.get(f"/reports/{window['id']}.json")
    assert (numbers["score"], numbers["bar"]) == (window["score"], window["bar"])
    new = [word for word in numbers["report"]["words"] if word["z"] > 0]
    gone = [word for word in numbers["report"]["words"] if word["z"] < 0]
    assert "flight" in {word["word"] for word in new}
    assert "card" in {word["word"] for word in gone}
    assert all(word["now"] + word["before"] >= 3 for word in new + gone)
    for path in ("/reports/nope.json", "/reports/%00.json"):
        assert (await world.http.get(path)).status_code in {404, 422}


async def test_health_of_versions(world: World) -> None:
    old = [served(f"v1-{n}", latency_ms=n + 1, first_token_ms=n) for n in range(100)]
    failed = [served(f"v2-{n}", model_version=2, arm="challenger", outcome="error") for n in range(3)]
    fine = served("v2-ok", model_version=2, arm="challenger", latency_ms=7)
    await world.tell(
        *old,
        *failed,
        fine,
        scored(old[0], 0.0, corrected="x"),
        scored(old[1], 1.0),
        served("x", model="other"),
    )
    health = await world.get("/health-of-versions", model=MODEL)
    assert health["champion"] == 1
    first, second = health["versions"]
    assert first == {
        "model_version": 1,
        "answers": 100,
        "errors": 0,
        "error_rate": 0,
        "latency_p50_ms": 50,
        "latency_p99_ms": 99,
        "first_token_p50_ms": 49,
        "scored": 2,
        "mean_score": 0.5,
        "corrected": 1,
        "promised": 0.9,
        "error_interval": {"low": 0, "high": pytest.approx(0.037, abs=0.001)},
        "score_interval": {"low": pytest.approx(0.095, abs=0.001), "high": pytest.approx(0.905, abs=0.001)},
    }
    assert (second["answers"], second["errors"], second["error_rate"]) == (4, 3, 0.75)
    assert (second["latency_p99_ms"], second["mean_score"], second["promised"]) == (7, None, None)
    world.later(2 * 3_600)
    assert (await world.get("/health-of-versions", model=MODEL, hours=1))["versions"] == []


async def test_nothing_is_shown_without_the_right_token(quiet: World, token: Callable[..., str]) -> None:
    for path in [*PATHS, "/health-of-versions?model=support"]:
        assert (await quiet.http.get(path, headers={"authorization": ""})).status_code == 401
        wrong = {"authorization": f"Bearer {token('chat', 'data:write')}"}
        assert (await quiet.http.get(path, headers=wrong)).status_code == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/windows?after=nope", 404),
        ("/drifts?after=nope", 404),
        ("/drifts?window=%00", 422),
        ("/windows?model=Bad%20Name", 422),
        ("/windows?model=support%0A", 422),
        ("/windows?model=support&limit=0", 422),
        ("/windows?model=support&limit=1e9", 422),
        ("/windows/nope", 404),
        ("/windows/%00", 422),
        ("/windows/%ED%A0%80", 422),
        ("/windows/" + "a" * 300, 422),
        ("/windows/..%2F..%2Fetc", 404),
        ("/drifts/nope", 404),
        ("/drifts?model=%00", 422),
        ("/reports/nope.html", 404),
        ("/reports/..%2Fsecret.html", 404),
        ("/health-of-versions?model=support&hours=NaN", 422),
        ("/health-of-versions?model=support&hours=999999", 422),
        ("/health-of-versions?model=unknown", 200),
    ],
)
async def test_bad_questions(quiet: World, path: str, status: int) -> None:
    answer = await quiet.http.get(path)
    assert answer.status_code == status, answer.text
    if status >= 400:
        problem = answer.json()
        assert problem["status"] == status
        assert "etc" not in problem["detail"]
