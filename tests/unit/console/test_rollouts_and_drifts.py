"""`driftwheel rollouts …` and `driftwheel drifts …`, on documents that serving and the monitor themselves make."""

import json
from typing import Any

import pytest

from services.console.door import Exit
from services.monitor.api import window_view
from services.serving.api import rollout_view
from tests.unit.console.conftest import Command, Door, problem
from tests.unit.console.pages.test_drift import drift, window
from tests.unit.console.pages.test_rollouts import ID, NOW, document, rollout

ROLLOUT = f"/api/serving/rollouts/{ID}"


def test_rollouts_are_listed(driftwheel: Command, door: Door) -> None:
    door.answers["GET", "/api/serving/rollouts"] = {
        "rollouts": [rollout_view(rollout()), rollout_view(rollout(paused_at=NOW, model="billing"))],
        "has_more": False,
    }
    result = driftwheel("rollouts", "list", "--model", "support", "--after", ID)
    for word in (ID, "support:7", "running", "2/4", "25 %", "paused", "12 of 60 scored"):
        assert word in result.stdout
    assert door.asked == [("GET", f"/api/serving/rollouts?model=support&after={ID}&limit=50")]
    listed = json.loads(driftwheel("rollouts", "list", "--json").stdout)
    assert [one["model"] for one in listed] == ["support", "billing"]


def test_no_rollout_says_what_makes_one(driftwheel: Command, door: Door) -> None:
    door.answers["GET", "/api/serving/rollouts"] = {"rollouts": [], "has_more": False}
    assert "An approved version gets one" in driftwheel("rollouts", "list").stdout


def test_a_rollout_is_shown_with_its_guards_and_history(driftwheel: Command, door: Door) -> None:
    door.answers["GET", ROLLOUT] = document(rollout())
    result = driftwheel("rollouts", "show", ID)
    for word in ("42 min 00 s", "present", "errors 3 of 640", "5.0 %", "fine", "advanced", "its test passed"):
        assert word in result.stdout, word
    assert json.loads(driftwheel("rollouts", "show", ID, "--json").stdout)["judgement"]["test"] == 2
    pending = rollout(state="pending", started_at=None, step_started_at=None, step=0)
    door.answers["GET", ROLLOUT] = {**document(pending), "changes": []}
    assert "Nothing has happened" in driftwheel("rollouts", "show", ID).stdout


@pytest.mark.parametrize(
    ("arguments", "body", "says"),
    [
        (("pause", "--reason", "it smells"), {"reason": "it smells"}, "support:7 is paused at 25 %"),
        (("resume",), {}, "support:7 is running at 25 %"),
        (("abort", "--reason", "it smells"), {"reason": "it smells"}, "support:7 is rolled_back at 0 %"),
    ],
)
def test_rollouts_are_acted_on(
    driftwheel: Command, door: Door, arguments: tuple[str, ...], body: Any, says: str
) -> None:
    verb, *options = arguments
    after: dict[str, dict[str, Any]] = {"pause": {"paused_at": NOW}, "abort": {"state": "rolled_back"}}
    door.answers["POST", f"{ROLLOUT}/{verb}"] = rollout_view(rollout(**after.get(verb, {})))
    result = driftwheel("rollouts", verb, ID, *options)
    assert (result.exit_code, result.stdout.strip()) == (Exit.OK, says)
    assert door.bodies[-1] == body
    assert json.loads(driftwheel("rollouts", verb, ID, *options, "--json").stdout)["id"] == ID


def test_a_refusal_has_its_exit_code(driftwheel: Command, door: Door) -> None:
    refused = problem(409, "conflict", "The rollout has ended.", "Roll back in the registry.")
    door.answers["POST", f"{ROLLOUT}/pause"] = (409, refused)
    result = driftwheel("rollouts", "pause", ID, "--reason", "x")
    assert result.exit_code == Exit.CONFLICT
    assert "The rollout has ended." in result.stderr
    assert driftwheel("rollouts", "pause", ID).exit_code == Exit.USAGE
    assert driftwheel("rollouts", "show", "../x").exit_code == Exit.NOT_FOUND
    assert door.asked[-1][1] == "/api/serving/rollouts/..%2Fx"


def test_drifts_are_listed_and_shown(driftwheel: Command, door: Door) -> None:
    door.answers["GET", "/api/monitor/drifts"] = {"drifts": [drift()], "has_more": False}
    result = driftwheel("drifts", "list", "--model", "support")
    for word in ("drift-0199", "support:6", "retrain", "waiting", "waits for 18 more corrected answers"):
        assert word in result.stdout, word
    door.answers["GET", "/api/monitor/drifts/drift-0199"] = {**drift(), "window": window_view(window())}
    result = driftwheel("drifts", "show", "drift-0199")
    for word in ("drift-0199", "text_domain", "quality_loss", "33", "promised 0.790"):
        assert word in result.stdout, word
    assert json.loads(driftwheel("drifts", "show", "drift-0199", "--json").stdout)["state"] == "waiting"
    assert json.loads(driftwheel("drifts", "list", "--json").stdout)[0]["id"] == "drift-0199"


def test_a_window_is_shown_by_its_own_id(driftwheel: Command, door: Door) -> None:
    door.answers["GET", "/api/monitor/windows/window-0199"] = window_view(window())
    assert "the text drifted" in driftwheel("drifts", "show", "window-0199").stdout
    assert json.loads(driftwheel("drifts", "show", "window-0199", "--json").stdout)["id"] == "window-0199"
    door.answers["GET", "/api/monitor/drifts"] = {"drifts": [], "has_more": False}
    assert "No verdict yet" in driftwheel("drifts", "list").stdout
