"""Pages of runs, drawn from documents that the trainer's own view functions make."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.console.figures import chart, differences
from services.trainer.api import compared, curve, entry_view, summary, view
from services.trainer.domain import Entry, Run
from shared.contracts.events import TrainingStatus
from shared.contracts.policy import Recipe
from tests.unit.console.pages.conftest import Browser, Door

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ONE, TWO = "run-" + "1" * 24, "run-" + "2" * 24
HOSTILE = '"><script>alert(1)</script>'
POINTS = [
    {"step": step, "loss": 2.0 / step, "learning_rate": 0.001}
    | ({"validation_loss": [2.5, 1.5, 1.75][step // 2 - 1]} if step % 2 == 0 else {})
    for step in range(1, 7)
]


def run(run_id: str = ONE, **changes: Any) -> Run:
    recipe = Recipe(**changes.pop("recipe", {}))
    values: dict[str, Any] = {
        "id": run_id,
        "model": "support",
        "dataset_digest": "d" * 64,
        "recipe_hash": "0" * 64,
        "base_digest": "b" * 64,
        "recipe": recipe.model_dump(mode="json"),
        "state": "running",
        "why": "upload",
        "budget": 5.0,
        "device_hour": 0.1,
        "currency": "EUR",
        "labels": {"team": HOSTILE},
        "attempt": 1,
        "step": 6,
        "total_steps": 24,
        "loss": 0.333,
        "validation_loss": 1.75,
        "eta_seconds": 90.0,
        "tokens": 12_000,
        "device_seconds": 60.0,
        "curve": POINTS,
        "created_by": "ann",
        "created_at": NOON,
        "started_at": NOON,
    }
    return Run(**values | changes)


def entry(sequence: int, state: str = "progress", reason: str = "") -> dict[str, Any]:
    fields = {"model": "support", "run_id": ONE, "state": state, "reason": reason, "step": sequence}
    status = TrainingStatus.model_validate(fields).model_dump(mode="json")
    return entry_view(
        Entry(run_id=ONE, sequence=sequence, status=status, at=NOON + timedelta(seconds=sequence))
    )


@pytest.fixture
def shown(door: Door) -> Door:
    door.says["trainer", f"/runs/{ONE}"] = view(run())
    door.says["trainer", f"/runs/{ONE}/entries"] = {
        "entries": [entry(2), entry(1, "started")],
        "has_more": True,
    }
    return door


def trained(door: Door, versions: Any, **changes: Any) -> None:
    done = run(state="succeeded", adapter_digest="a" * 64, finished_at=NOON + timedelta(minutes=2), **changes)
    door.says["trainer", f"/runs/{ONE}"] = view(done)
    door.says["registry", "/models/support/versions"] = versions


def test_the_list_is_filtered_by_the_service_and_goes_on(browser: Browser, door: Door) -> None:
    runs = [summary(run()), summary(run(TWO, state="queued", started_at=None, step=0, total_steps=0))]
    door.says["trainer", "/runs"] = {"runs": runs, "has_more": True}
    text = browser.sees("/runs?model=support&state=running")
    (asked,) = [one for one in door.asked if one[2] == "/runs"]
    assert asked[3] == {"model": "support", "state": "running", "limit": "50"}
    assert f'href="/runs/{ONE}"' in text
    assert f'name="run" value="{TWO}"' in text
    assert 'aria-label="6 of 24 steps"' in text
    assert "0.00167 EUR" in text
    assert f"/runs?model=support&amp;state=running&amp;after={TWO}" in text


def test_no_run_says_what_starts_one(browser: Browser, door: Door) -> None:
    door.says["trainer", "/runs"] = {"runs": [], "has_more": False}
    assert "driftwheel datasets upload MODEL FILE" in browser.sees("/runs")
    door.says["trainer", "/runs"] = None
    assert "trainer does not answer" in browser.sees("/runs")


def test_a_run_shows_where_it_stands_and_what_it_costs(browser: Browser, shown: Door) -> None:
    text = browser.sees(f"/runs/{ONE}")
    for part in (
        "1.500 at step 4",
        ">200<",
        "1 min 30 s",
        "0.00167 of 5 EUR",
        "step 6 of 24",
        "when the run ends",
    ):
        assert part in text, part
    assert f'data-chart="/runs/{ONE}/curve.json"' in text
    assert f'href="/runs/{ONE}?after=1#log"' in text
    assert f'action="/runs/{ONE}/cancel"' in text
    assert "<script>alert" not in text
    assert all(service == "trainer" for _, service, *_ in shown.asked)
    browser.sees(f"/runs/{ONE}?after=1")
    assert shown.asked[-1][3] == {"after": "1", "limit": "50"}


def test_a_failed_or_rejected_run_says_why(browser: Browser, shown: Door) -> None:
    shown.says["trainer", f"/runs/{ONE}"] = view(run(state="failed", reason=f"diverged at step 6 {HOSTILE}"))
    text = browser.sees(f"/runs/{ONE}")
    assert "diverged at step 6" in text
    assert "none: the run ended without one" in text
    assert "/cancel" not in text
    assert "<script>alert" not in text
    rejection = {"model_version": 4, "reasons": ["floor: 0.44 is below 0.5"], "remedy": "Send more."}
    trained(shown, {"versions": []}, rejection=rejection)
    text = browser.sees(f"/runs/{ONE}")
    assert "Version 4, which this run made, was rejected" in text
    assert "floor: 0.44 is below 0.5" in text
    assert "none among the newest of the registry" in text


def test_a_run_leads_to_its_version_and_evaluation(browser: Browser, shown: Door) -> None:
    version = {
        "model": "support",
        "number": 3,
        "state": "approved",
        "aliases": ["champion"],
        "run_id": ONE,
        "evaluation_id": "eval-1",
    }
    trained(shown, {"versions": [{**version, "number": 4, "run_id": TWO}, version]})
    text = browser.sees(f"/runs/{ONE}")
    for link in ("/datasets/" + "d" * 64, "/models/support/versions/3", "/evaluations/eval-1"):
        assert f'href="{link}"' in text
    assert "champion" in text
    assert "support:4" not in text
    shown.says["registry", "/models/support/versions"] = None
    text = browser.sees(f"/runs/{ONE}")
    assert "registry does not answer" in text
    assert "Recipe" in text


def test_parts_of_a_run_fail_alone(browser: Browser, shown: Door) -> None:
    shown.says["trainer", f"/runs/{ONE}/entries"] = 503
    text = browser.sees(f"/runs/{ONE}")
    assert "trainer does not answer" in text
    assert "1.500 at step 4" in text
    assert "trainer said 404" in browser.sees("/runs/run-nope", 404)


def test_the_loss_curves_are_train_and_validation(browser: Browser, shown: Door) -> None:
    shown.says["trainer", "/runs/curves"] = {"curves": [curve(run())]}
    drawn = browser.http.get(f"/runs/{ONE}/curve.json").json()
    assert drawn["x"] == [1, 2, 3, 4, 5, 6]
    train, validation = drawn["series"]
    assert (train["label"], train["dash"]) == ("train", False)
    assert (validation["dash"], validation["values"]) == (True, [None, 2.5, None, 1.5, None, 1.75])
    rate = browser.http.get(f"/runs/{ONE}/rate.json").json()
    assert [series["values"] for series in rate["series"]] == [[0.001] * 6]
    shown.says["trainer", "/runs/curves"] = {"curves": [curve(run(curve=[]))]}
    assert browser.http.get(f"/runs/{ONE}/curve.json").json()["x"] == []


@pytest.mark.parametrize(("said", "status"), [(None, 503), (503, 503), (422, 422), ({"curves": []}, 404)])
def test_a_chart_without_an_answer_is_no_empty_chart(
    browser: Browser, door: Door, said: Any, status: int
) -> None:
    door.says["trainer", "/runs/curves"] = said
    assert browser.http.get(f"/runs/{ONE}/curve.json").status_code == status


def test_runs_side_by_side_show_only_where_recipes_differ(browser: Browser, door: Door) -> None:
    other = run(TWO, recipe={"rank": 8, "alpha": 16}, curve=[*POINTS, {"step": 8, "validation_loss": 1.25}])
    door.says["trainer", "/runs/comparison"] = {"runs": [compared(run()), compared(other)]}
    door.says["trainer", "/runs/curves"] = {"curves": [curve(run()), curve(other)]}
    lost = "run-" + "3" * 24
    text = browser.sees(f"/runs/compare?run={ONE}&run={TWO}&run={lost}")
    assert ">rank<" in text
    assert ">seed<" not in text
    assert f"Not found: <code>{lost}</code>" in text
    assert '<strong class="good-text">1.250</strong>' in text
    assert f'data-chart="/runs/compare.json?run={ONE}&amp;run={TWO}"' in text
    drawn = browser.http.get(f"/runs/compare.json?run={ONE}&run={TWO}").json()
    assert drawn["x"] == [2, 4, 6, 8]
    assert [series["values"][-1] for series in drawn["series"]] == [None, 1.25]


def test_comparing_nothing_or_too_much_breaks_nothing(browser: Browser, door: Door) -> None:
    assert "Nothing is chosen" in browser.sees("/runs/compare")
    door.says["trainer", "/runs/comparison"] = {"runs": []}
    text = browser.sees("/runs/compare?" + "&".join(f"run=run-{n}" for n in range(23)))
    assert "None of these runs exists" in text
    assert "The first 20 are shown, 3 more were chosen" in text
    door.says["trainer", "/runs/comparison"] = None
    assert "trainer does not answer" in browser.sees(f"/runs/compare?run={HOSTILE}")


def test_curves_of_different_steps_share_one_axis() -> None:
    drawn = chart([("a", [{"step": 2, "v": 1.0}], "v", False), ("b", [{"step": 1, "v": 2.0}], "v", False)])
    assert drawn["x"] == [1, 2]
    assert [series["values"] for series in drawn["series"]] == [[None, 1.0], [2.0, None]]
    assert differences(
        [{"rank": 4, "seed": 0}, {"rank": 8, "seed": 0}, {"rank": 4, "seed": 0, "new": 1}]
    ) == [
        "rank",
        "new",
    ]


def test_cancelling_asks_the_trainer_and_says_what_came_of_it(browser: Browser, shown: Door) -> None:
    path = f"/runs/{ONE}/cancel"
    for said, told in (
        (view(run(state="cancelled")), "Cancelled."),
        (view(run(state="cancelling")), "next%20step"),
        (409, "Not%20cancelled%3A%20trainer%20said%20409"),
        (None, "Not%20cancelled"),
    ):
        shown.says["trainer", path] = said
        answer = browser.sends(path)
        assert answer.status_code == 303
        assert told in answer.headers["location"]
    assert shown.asked[-1][:3] == ("POST", "trainer", path)
    assert browser.http.post(path).status_code == 403


def test_who_may_not_write_has_no_button_and_no_way(browser: Browser, shown: Door) -> None:
    browser.signs_in("run:read")
    assert "/cancel" not in browser.sees(f"/runs/{ONE}")
    assert browser.sends(f"/runs/{ONE}/cancel").status_code == 403
    assert not any(method == "POST" for method, *_ in shown.asked)
