"""The pages of rollouts, drawn from documents that serving itself makes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.console.pages.rollouts import drawn
from services.serving import progress
from services.serving.api import change_view, rollout_view
from services.serving.domain import Change, Rollout
from services.serving.ramp import Arm, Stats
from shared.contracts.policy import Ramp
from tests.unit.console.pages.conftest import Browser, Door

ID = "5a0c3a52-5a3b-5d41-9d4b-6f2d1c9a7e10"
PATH = f"/rollouts/{ID}"
NOW = datetime.now(UTC).replace(microsecond=0)
PLAN = Ramp(min_samples=30, min_feedback=10, hold_seconds=600)
GOOD = Arm(640, 3, 410.0, 2, 220, 0.86, 120.0)
CHAMPION = Arm(1_930, 11, 390.0, 0, 640, 0.84, 118.0)


def rollout(**more: Any) -> Rollout:
    known: dict[str, Any] = {
        "id": ID,
        "model": "support",
        "model_version": 7,
        "champion_version": 6,
        "plan": PLAN.model_dump(mode="json"),
        "salt": "pepper",
        "state": "running",
        "step": 1,
        "looks": 1,
        "reason": "12 of 60 scored challenger answers",
        "drift_id": "drift-1",
        "created_at": NOW - timedelta(hours=2),
        "started_at": NOW - timedelta(minutes=50),
        "step_started_at": NOW - timedelta(minutes=8),
    }
    return Rollout(**{**known, **more})


def document(
    one: Rollout, challenger: Arm = GOOD, champion: Arm | None = CHAMPION, *more: Change
) -> dict[str, Any]:
    """What `GET /rollouts/{id}` answers."""
    stats = Stats(challenger, champion, one.looks, one.passed)
    held = progress.judgement(rollout(looks=0), Stats(Arm(30, 3, 500, 0, 12, 0.7), CHAMPION))

    def change(state: str, step: int, weight: float, minutes: int, reason: str, judged: Any = None) -> Change:
        at = NOW - timedelta(minutes=minutes)
        return Change(
            id=1,
            rollout_id=ID,
            at=at,
            state=state,
            step=step,
            weight=weight,
            reason=reason,
            judgement=judged,
        )

    changes = [
        change("planned", 0, 0, 120, ""),
        change("started", 0, 5, 50, "The adapter answers as it was evaluated."),
        change("held", 0, 5, 30, "errors 3 of 30 (champion 11 of 1930)", held),
        change(
            "advanced",
            1,
            25,
            8,
            "its test passed",
            progress.judgement(rollout(looks=1), Stats(GOOD, CHAMPION, 1)),
        ),
        *more,
    ]
    return {
        **rollout_view(one),
        "statistics": [],
        "steps": progress.steps(one, changes, NOW),
        "judgement": progress.judgement(one, stats) if one.started_at else None,
        "changes": [change_view(found) for found in changes],
    }


@pytest.fixture
def shown(door: Door) -> dict[str, Any]:
    found = document(rollout())
    door.says["serving", PATH] = found
    door.says["serving", "/rollouts"] = {"rollouts": [rollout_view(rollout())], "has_more": True}
    return found


def test_the_list_says_where_each_stands_and_goes_on(browser: Browser, door: Door, shown: Any) -> None:
    text = browser.sees("/rollouts?model=support")
    for word in ("support:7", "running", "2 of 4", "25 %", "12 of 60 scored", "driftwheel rollouts list"):
        assert word in text
    assert f"/rollouts?model=support&amp;after={ID}" in text
    assert door.asked[-1][3] == {"model": "support", "limit": "50"}


def test_an_empty_list_says_what_will_come(browser: Browser, door: Door) -> None:
    door.says["serving", "/rollouts"] = {"rollouts": [], "has_more": False}
    assert "an approved version gets one" in browser.sees("/rollouts")


def test_a_rollout_shows_its_ramp_its_arms_and_what_it_waits_for(browser: Browser, shown: Any) -> None:
    text = browser.sees(PATH)
    assert 'aria-current="step"' in text
    for word in (
        "passed in 42 min 00 s",
        "here for 8 min 00 s",
        "640 of 60 challenger answers",
        "8 min 00 s of 10 min 00 s at this step",
        "Of 2,570 answers 640 (24.9 %)",
        "Test 2 of this step is due",
        "within the bound",
        "errors 3 of 640",
        "Test 1, its numbers",
        "/drift/drift-1",
        f"/trace/{ID}",
        "120 ms",
        "/models/support/versions/7",
    ):
        assert word in text, word
    assert f"{PATH}/tests.json?guard=errors" in text


def test_a_paused_one_offers_to_resume_and_a_running_one_to_pause(browser: Browser, door: Door) -> None:
    door.says["serving", PATH] = document(rollout(paused_at=NOW, reason="Paused by ann: smells"))
    text = browser.sees(PATH)
    assert f'action="{PATH}/resume"' in text
    assert f'action="{PATH}/pause"' not in text
    assert "nothing is judged" in text
    door.says["serving", PATH] = document(rollout())
    text = browser.sees(PATH)
    assert f'action="{PATH}/pause"' in text
    assert f'action="{PATH}/abort"' in text
    browser.signs_in("model:read")
    assert "<form method" not in browser.sees(PATH).replace('<form method="post" action="/logout">', "")
    browser.signs_in("monitor:read")
    assert browser.http.get(PATH).status_code == 403


def test_an_ended_one_shows_the_decision_that_ended_it(browser: Browser, door: Door) -> None:
    bad = Arm(60, 21, 400, 0, 30, 0.2)
    one = rollout(state="rolled_back", ended_at=NOW, reason="errors 21 of 60")
    last = Change(
        id=2,
        rollout_id=ID,
        at=NOW,
        state="rolled_back",
        step=1,
        weight=0,
        reason="errors 21 of 60",
        judgement=progress.judgement(rollout(), Stats(bad, CHAMPION, 1)),
    )
    door.says["serving", PATH] = document(one, Arm(), CHAMPION, last)
    text = browser.sees(PATH)
    for word in ("The last decision", "worse, not by chance", "rolled back after 8 min", "errors 21 of 60"):
        assert word in text
    assert f'action="{PATH}/abort"' not in text


def test_a_pending_one_and_a_first_version_have_no_tests(browser: Browser, door: Door) -> None:
    pending = rollout(
        state="pending", step=0, started_at=None, step_started_at=None, champion_version=None, reason=""
    )
    door.says["serving", PATH] = {**document(pending), "changes": []}
    text = browser.sees(PATH)
    assert "waits for its adapter" in text
    assert "Nothing has happened" in text
    first = rollout(champion_version=None, step=0, plan=Ramp(steps=(100,)).model_dump(mode="json"))
    door.says["serving", PATH] = document(first, Arm(), None)
    assert "no champion to compare with" in browser.sees(PATH)


def test_the_chart_has_one_point_per_test_that_counted(browser: Browser, shown: Any) -> None:
    found = browser.http.get(f"{PATH}/tests.json?guard=errors").json()
    times = [(NOW - timedelta(minutes=minutes)).timestamp() for minutes in (30, 8)]
    assert (found["x"], found["x_label"], found["format"]) == (times, "time", "percent")
    by = {line["label"]: line["values"] for line in found["series"]}
    assert by["value"] == [0.1, 3 / 640]
    assert by["bound"] == [0.05, 0.05]
    assert by["low"][0] < 0.1 < by["high"][0]
    assert browser.http.get(f"{PATH}/tests.json?guard=nonsense").json()["x"] == []


@pytest.mark.parametrize(
    ("verb", "body", "said"),
    [("pause", {"reason": "smells"}, "Paused."), ("resume", {}, "Resumed."), ("abort", {"reason": "smells"}, "Aborted.")],
)  # fmt: skip
def test_actions_are_passed_on(browser: Browser, door: Door, verb: str, body: Any, said: str) -> None:
    door.says["serving", f"{PATH}/{verb}"] = rollout_view(rollout())
    answer = browser.sends(f"{PATH}/{verb}", reason=" smells ")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{PATH}?said={said}"
    assert door.asked[-1] == ("POST", "serving", f"{PATH}/{verb}", {}, body)


def test_refused_actions_say_so(browser: Browser, door: Door, shown: Any) -> None:
    door.says["serving", f"{PATH}/pause"] = 409
    answer = browser.sends(f"{PATH}/pause", reason="x")
    assert "Not paused: serving said 409." in browser.sees(answer.headers["location"])
    assert "no such action" in browser.sends(f"{PATH}/promote").headers["location"].replace("%20", " ")
    assert browser.http.post(f"{PATH}/pause", data={"reason": "x"}).status_code == 403
    browser.signs_in("model:read")
    assert browser.sends(f"{PATH}/pause", reason="x").status_code == 403


def test_serving_away_or_a_rollout_unknown(browser: Browser, door: Door) -> None:
    for path in ("/rollouts", PATH):
        door.says["serving", path] = None
        assert "serving does not answer" in browser.sees(path)
    assert browser.http.get(f"{PATH}/tests.json").status_code == 503
    del door.says["serving", PATH]
    assert "serving said 404" in browser.sees(PATH, 404)
    assert browser.http.get(f"{PATH}/tests.json").status_code == 404
    browser.sees("/rollouts/..%2F..%2Fadmin", 404)
    assert all(asked[2].startswith("/rollouts") for asked in door.asked)


def test_hostile_text_stays_text(browser: Browser, door: Door) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x>"
    door.says["serving", PATH] = document(rollout(model=evil, reason=evil, paused_at=NOW))
    door.says["serving", "/rollouts"] = {"rollouts": [rollout_view(rollout(reason=evil))], "has_more": False}
    for path in ("/rollouts", PATH, "/rollouts?model=" + "%3Cscript%3E"):
        text = browser.sees(path)
        assert "<script>alert" not in text
        assert "<img src=x" not in text


def test_an_axis_holds_its_interval_its_bound_and_zero() -> None:
    guard = {"guard": "quality", "verdict": "fine", "text": "", "value": -0.02, "bound": 0.1}
    found = drawn({**guard, "low": -0.2, "high": 0.16})
    places = [found.at[key] for key in ("low", "value", "zero", "bound", "high")]
    assert places == sorted(places)  # type: ignore[type-var]
    assert all(place is not None and 0 <= place <= 1 for place in places)
    assert drawn({**guard, "value": None, "low": None, "high": None}).at["value"] is None
