"""`driftwheel dlq` and `driftwheel events replay`: what they ask, what they show, and that nothing happens unasked."""

import json
from typing import Any

import pytest

from services.console import output
from services.console.door import SERVICES, Exit
from tests.unit.console.conftest import Command, Door

LETTER = {
    "event_id": "e-1",
    "state": "dead",
    "error": "ValueError in the handler; see the log.",
    "attempts": 5,
    "topic": "dataset.ready",
    "partition": 2,
    "offset": 118,
    "type": "dataset.ready.v1",
    "source": "/data",
    "correlationid": "c-1",
    "causationid": None,
    "refs": ["d-1"],
    "event_time": "2026-01-01T12:00:00+00:00",
    "recorded_at": "2026-01-01T12:00:00+00:00",
    "received_at": "2026-01-01T12:00:01+00:00",
    "handled_at": "2026-01-01T12:00:02+00:00",
    "headers": [["ce_id", "e-1"], ["x-binary", {"base64": "/w=="}], ["x-null", None]],
    "bytes": 20,
    "key": {"encoding": "utf-8", "text": "support", "bytes": 7, "cut": False},
    "payload": {"encoding": "utf-8", "text": '{"model": "[red]x[/]"}', "bytes": 20, "cut": False},
    "payload_needs": None,
}
DRY = {
    "dry_run": True,
    "matching": 1_200,
    "messages": 1_000,
    "seconds": 20.0,
    "by_topic": [{"topic": "dataset.ready", "messages": 1_200}],
    "by_error": [{"error": "ValueError in the handler; see the log.", "messages": 1_199}],
    "other_errors": 1,
    "first": ["e-1"],
}
DONE = {
    "dry_run": False,
    "messages": 1_000,
    "by_topic": [{"topic": "dataset.ready", "messages": 1_000}],
    "per_second": 50.0,
    "until": "2026-01-01T12:00:20+00:00",
}
PLAN = {
    "service": "registry",
    "dry_run": True,
    "topics": [
        {
            "topic": "model.trained",
            "records": 8,
            "done": 7,
            "dead": 1,
            "redriven": 0,
            "unknown": 0,
            "partitions": [{"partition": 0, "from": 10, "to": 18}],
        }
    ],
    "records": 8,
    "new_effects": 0,
    "here": ["model.trained/0"],
    "elsewhere": ["model.trained/1"],
}
REDRIVE = ("POST", "/api/trainer/dead-letters/redrive")
REPLAY = ("POST", "/api/registry/replay")


def scripted(door: Door, path: tuple[str, str], dry: Any, done: Any) -> list[Any]:
    """The door says `dry` to a dry run and `done` else; returns what was asked, as it comes."""
    asked: list[Any] = []

    class Answers(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            if key != path:
                return super().get(key, default)
            asked.append(door.bodies[-1])
            return dry if door.bodies[-1].get("dry_run") else done

    door.answers = Answers(door.answers)
    return asked


def test_the_list_is_filtered_by_the_services(driftwheel: Command, door: Door) -> None:
    for name in SERVICES:
        door.answers["GET", f"/api/{name}/dead-letters"] = {"dead_letters": [], "next": None}
    door.answers["GET", "/api/trainer/dead-letters"] = {"dead_letters": [LETTER], "next": "more"}
    told = driftwheel("dlq", "list", "--topic", "dataset.ready", "--error", "50%&x", "--limit", "1")
    assert told.exit_code == Exit.OK, told.output
    assert "more than 1" in told.stderr
    assert ("GET", "/api/data/dead-letters?topic=dataset.ready&error=50%25%26x&limit=1") in door.asked
    door.asked.clear()
    assert (
        json.loads(driftwheel("dlq", "list", "--service", "trainer", "--json").stdout)[0]["service"]
        == "trainer"
    )
    assert [path for _, path in door.asked] == ["/api/trainer/dead-letters?limit=100"]


def test_a_letter_is_shown_whole(driftwheel: Command, door: Door) -> None:
    door.answers["GET", "/api/trainer/dead-letters/dataset.ready%2F2%2F118"] = LETTER
    told = driftwheel("dlq", "show", "trainer", "dataset.ready/2/118")
    assert told.exit_code == Exit.OK, told.output
    for text in ("ValueError in the handler", "dataset.ready/2/118", "support"):
        assert text in told.stdout
    assert '{"model": "[red]x[/]"}' in told.stdout
    assert "x-binary: base64 /w==" in told.stderr
    assert "driftwheel dlq redrive trainer" in told.stderr
    parsed = {"encoding": "utf-8", "json": {"model": "[red]x[/]"}, "bytes": 20, "cut": False}
    document = json.loads(driftwheel("dlq", "show", "trainer", "dataset.ready/2/118", "--json").stdout)
    assert document == {**LETTER, "payload": parsed}


def test_a_payload_that_is_withheld_is_no_error(driftwheel: Command, door: Door) -> None:
    door.answers["GET", "/api/trainer/dead-letters/e-1"] = {
        **LETTER,
        "payload": None,
        "payload_needs": "admin",
    }
    told = driftwheel("dlq", "show", "trainer", "e-1")
    assert told.exit_code == Exit.OK
    assert "needs a token with the scope admin" in told.stderr


def test_a_dry_run_sends_nothing(driftwheel: Command, door: Door) -> None:
    asked = scripted(door, REDRIVE, DRY, DONE)
    told = driftwheel("dlq", "redrive", "--service", "trainer", "--error", "ValueError", "--dry-run")
    assert told.exit_code == Exit.OK, told.output
    assert "1,200 match, 1,000 would go again, in 20 s" in told.stdout
    assert "1 more for other reasons" in told.stdout
    assert asked == [{"error": "ValueError", "limit": 10_000, "per_second": 50.0, "dry_run": True}]
    shown = driftwheel("dlq", "redrive", "--service", "trainer", "--dry-run", "--json")
    assert json.loads(shown.stdout) == DRY


def test_many_are_sent_only_if_somebody_said_yes(
    driftwheel: Command, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scripted(door, REDRIVE, DRY, DONE)
    many = ("dlq", "redrive", "--service", "trainer", "--limit", "1000", "--rate", "50")
    silent = driftwheel(*many)
    assert silent.exit_code == Exit.USAGE
    assert "--yes" in silent.stderr
    monkeypatch.setattr(output, "somebody_is_there", lambda: True)
    monkeypatch.setattr(output.typer, "confirm", lambda *_args, **_kwargs: False)
    assert driftwheel(*many).exit_code == Exit.FAILED
    assert all(body["dry_run"] for body in asked)
    told = driftwheel(*many, "--yes")
    assert told.exit_code == Exit.OK, told.output
    assert "1,000 go again, 50 a second" in told.stdout
    assert asked[-1] == {"limit": 1_000, "per_second": 50.0}
    assert json.loads(driftwheel(*many, "--yes", "--json").stdout) == DONE


def test_nothing_to_send_asks_nobody(driftwheel: Command, door: Door) -> None:
    none = {
        **DRY,
        "matching": 0,
        "messages": 0,
        "by_topic": [],
        "by_error": [],
        "other_errors": 0,
        "first": [],
    }
    asked = scripted(door, REDRIVE, none, DONE)
    assert driftwheel("dlq", "redrive", "--service", "trainer").exit_code == Exit.OK
    assert len(asked) == 1


@pytest.mark.parametrize(
    "command",
    [
        ("dlq", "redrive"),
        ("dlq", "redrive", "trainer"),
        ("dlq", "redrive", "trainer", "e-1", "--service", "trainer"),
        ("dlq", "redrive", "--service", "nobody"),
        ("dlq", "redrive", "--service", "trainer", "--limit", "10001"),
        ("dlq", "redrive", "--service", "trainer", "--rate", "0"),
        ("dlq", "show", "nobody", "e-1"),
        ("dlq", "list", "--service", "nobody"),
        ("events", "replay", "--from", "x", "--service", "nobody"),
        ("events", "search"),
        ("events", "search", "--header", "ce_source"),
        ("events", "search", "--id", "x", "--since", "yesterday"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_a_usage_error(
    driftwheel: Command, door: Door, command: tuple[str, ...]
) -> None:
    told = driftwheel(*command)
    assert told.exit_code == Exit.USAGE, told.output
    assert door.asked == []


def test_a_replay_shows_its_plan_and_asks(driftwheel: Command, door: Door) -> None:
    asked = scripted(door, REPLAY, PLAN, {**PLAN, "dry_run": False})
    replay = ("events", "replay", "--from", "model.trained/0/10", "--service", "registry")
    told = driftwheel(*replay)
    assert told.exit_code == Exit.USAGE
    assert "8 records, 0 new effects" in told.stdout
    assert "p0 10-18" in told.stdout
    assert "model.trained/1" in told.stderr
    assert asked == [{"from": "model.trained/0/10", "topics": [], "dry_run": True}]
    told = driftwheel(*replay, "--topic", "model.trained", "--yes")
    assert told.exit_code == Exit.OK, told.output
    assert asked[-1] == {"from": "model.trained/0/10", "topics": ["model.trained"], "dry_run": False}
    assert "8 records come again in model.trained/0" in told.stdout


def test_a_replay_of_nothing_moves_nothing(driftwheel: Command, door: Door) -> None:
    nothing = {**PLAN, "topics": [], "records": 0, "here": [], "elsewhere": []}
    asked = scripted(door, REPLAY, nothing, None)
    told = driftwheel("events", "replay", "--from", "2099-01-01", "--service", "registry", "--yes")
    assert told.exit_code == Exit.OK
    assert "Nothing lies between" in told.stdout
    assert len(asked) == 1
