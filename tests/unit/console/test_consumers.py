"""`driftwheel consumers`: what they read, what stands still and why, and on it goes."""

import json

from services.console.door import SERVICES, Exit
from tests.unit.console.conftest import Command, Door

RUNNING = {
    "topic": "model.trained",
    "state": "running",
    "detail": "",
    "since": "2026-01-01T12:00:00+00:00",
    "quarantined": [],
    "parked": [],
}
STOPPED = RUNNING | {"topic": "dataset.ready", "state": "stopped", "detail": "50 messages died in a row"}
QUARANTINE = RUNNING | {
    "topic": "feedback.recorded",
    "quarantined": [{"source": "/[red]mallory[/]", "reason": "50 messages died in a row", "since": ""}],
}


def test_the_list_says_what_stands_still_and_why(door: Door, driftwheel: Command) -> None:
    for name in SERVICES:
        door.answers["GET", f"/api/{name}/consumers"] = {"consumers": [RUNNING]}
    door.answers["GET", "/api/trainer/consumers"] = {"consumers": [STOPPED, QUARANTINE]}
    shown = driftwheel("consumers", "list")
    assert shown.exit_code == 0
    assert "stopped" in shown.stdout
    assert "takes no feedback.recorded from /[red]mallory[/]" in " ".join(shown.stdout.split())
    listed = json.loads(driftwheel("consumers", "list", "--json").stdout)
    assert [c["topic"] for c in listed if c["state"] == "stopped"] == ["dataset.ready"]


def test_a_service_that_is_silent_is_named(door: Door, driftwheel: Command) -> None:
    for name in SERVICES[1:]:
        door.answers["GET", f"/api/{name}/consumers"] = {"consumers": [RUNNING]}
    door.answers["GET", f"/api/{SERVICES[0]}/consumers"] = (502, {"detail": "away"})
    shown = driftwheel("consumers", "list")
    assert shown.exit_code == Exit.UNAVAILABLE
    assert SERVICES[0] in shown.stderr


def test_resume_asks_for_one_topic_or_one_source(door: Door, driftwheel: Command) -> None:
    door.answers["POST", "/api/trainer/consumers/dataset.ready/resume"] = RUNNING
    door.bodies.clear()
    assert driftwheel("consumers", "resume", "trainer", "dataset.ready").exit_code == 0
    assert driftwheel("consumers", "resume", "trainer", "dataset.ready", "--source", "/bank").exit_code == 0
    assert door.bodies == [{"source": None}, {"source": "/bank"}]
    assert driftwheel("consumers", "resume", "nobody", "dataset.ready").exit_code == Exit.USAGE
