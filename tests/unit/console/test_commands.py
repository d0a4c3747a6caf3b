"""What commands ask and what they show: tables for people, one JSON document for programs."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.sse import format_sse_event
from starlette.responses import JSONResponse, PlainTextResponse, Response

from services.console.catalogue import ENTRIES, load
from services.console.causality import merge
from services.console.commands import trace
from services.console.door import Exit
from services.console.waiting import why
from tests.unit.console.conftest import Command, Door

DIGEST = "d" * 64
BUILD = {
    "id": "build-1",
    "model": "support",
    "state": "ready",
    "detail": "",
    "digest": DIGEST,
    "generation": 1,
    "why": "upload",
    "read": 600,
    "rows": {"train": 470, "validation": 60, "test": 58},
    "dropped": {"duplicate": 12},
    "parents": [],
    "rejects": [{"reason": "duplicate", "place": "line 3", "excerpt": "[red]what[/] is my balance"}],
    "created_at": "2026-01-01T12:00:00+00:00",
}
RUN = {
    "id": "run-1",
    "model": "support",
    "state": "succeeded",
    "reason": "",
    "attempt": 1,
    "step": 60,
    "total_steps": 60,
    "loss": 0.12345,
    "validation_loss": 0.2,
    "cost": {"amount": 0.002, "currency": "EUR", "device_seconds": 72.0, "tokens": 9},
    "curve": [{"validation_loss": loss} for loss in (2.0, 1.0, 0.5, 0.2)],
    "dataset_digest": DIGEST,
    "adapter_digest": "a" * 64,
    "created_at": "2026-01-01T12:00:00+00:00",
}
SCORE = {
    "subject": "candidate",
    "split": "test",
    "metric": "exact_match",
    "value": 0.79,
    "low": 0.7,
    "high": 0.86,
    "n": 58,
}
VERSION = {
    "model": "support",
    "number": 1,
    "state": "approved",
    "aliases": ["champion"],
    "engine_name": "support-v1-aaaaaaaa",
    "run_id": "run-1",
    "dataset_digest": DIGEST,
    "adapter_digest": "a" * 64,
    "base_digest": "b" * 64,
    "code": "0.1.0",
    "evaluation_id": "e-1",
    "reasons": [],
    "remedy": "",
    "scores": [SCORE],
    "verdicts": [{"gate": "floor", "verdict": "pass", "value": 0.79, "bar": 0.5, "reason": "0.79 >= 0.5"}],
    "decided_at": "2026-01-01T12:00:00+00:00",
}
MODEL = {"name": "support", "revision": 2, "versions": 1, "aliases": {"champion": 1, "challenger": None}}
MOVED = {
    "at": "2026-01-01T12:00:00+00:00",
    "alias": "champion",
    "version": 1,
    "actor": "serving",
    "reason": "ramp [1]",
}
LETTER = {
    "event_id": "e-1",
    "topic": "dataset.ready",
    "attempts": 1,
    "handled_at": "2026-01-01T12:00:00+00:00",
    "error": "NaN is not JSON.",
}
WAITING = {**BUILD, "state": "queued", "ahead": {"jobs": 1, "model": "other", "key": "build-9"}}
ANSWERS: dict[tuple[str, str], Any] = {
    ("GET", "/api/data/datasets"): {"datasets": [BUILD]},
    ("GET", "/api/data/datasets/build-1"): BUILD,
    ("POST", "/api/data/datasets/build-1/cancel"): {**BUILD, "state": "cancelled"},
    ("GET", "/api/data/datasets/build-2"): WAITING,
    ("GET", "/api/trainer/runs"): {"runs": [RUN]},
    ("GET", "/api/trainer/runs/run-1"): RUN,
    ("POST", "/api/trainer/runs/run-1/cancel"): {**RUN, "state": "cancelling"},
    ("GET", "/api/registry/models"): {"models": [MODEL]},
    ("GET", "/api/registry/models/support"): MODEL,
    ("GET", "/api/registry/models/support/versions"): {"versions": [VERSION]},
    ("GET", "/api/registry/models/support/versions/1"): VERSION,
    ("GET", "/api/registry/models/support/aliases"): {"events": [MOVED]},
    ("POST", "/api/registry/models/support/rollback"): {"model": "support", "champion": 1},
    ("POST", "/v1/feedback"): {"feedback_id": "f-1"},
    **{
        ("GET", f"/api/{name}/dead-letters"): {"dead_letters": []}
        for name in ("trainer", "evaluator", "registry")
    },
    **{("GET", f"/api/{name}/dead-letters"): {"dead_letters": []} for name in ("serving", "monitor")},
    ("GET", "/api/data/dead-letters"): {"dead_letters": [LETTER]},
    ("POST", "/api/data/dead-letters/e-1/redrive"): {"event_id": "e-1", "topic": "dataset.ready"},
}


@pytest.fixture
def ask(driftwheel: Command, door: Door) -> Command:
    door.answers.update(ANSWERS)
    return driftwheel


@pytest.mark.parametrize(
    ("command", "shown", "document"),
    [
        (("datasets", "list"), ("build-1", "dddddddddddd", "588"), [BUILD]),
        (("datasets", "show", "build-1"), ("dropped: duplicate", "12", "[red]what[/] is my balance"), BUILD),
        (("datasets", "show", "build-2"), ("queued behind 1 job, next ahead: other build-9",), WAITING),
        (("datasets", "cancel", "build-1"), ("build-1 cancelled",), {**BUILD, "state": "cancelled"}),
        (("runs", "list"), ("run-1", "60/60", "0.1235"), [RUN]),
        (("runs", "show", "run-1"), ("0.0020 EUR", "1 min 12 s", "█▄▂▁"), RUN),
        (("runs", "cancel", "run-1"), ("run-1 cancelling",), {**RUN, "state": "cancelling"}),
        (("models", "list"), ("support", "revision 2"), [MODEL]),
        (
            ("models", "show", "support"),
            ("79 % [70 %, 86 %]", "ramp [1]", "champion"),
            {"model": MODEL, "versions": [VERSION], "history": {"events": [MOVED]}},
        ),
        (("models", "show", "support:1"), ("support-v1-aaaaaaaa", "floor", "0.79 >= 0.5"), VERSION),
        (
            ("models", "rollback", "support", "--reason", "r"),
            ("champion of support is version 1",),
            {"model": "support", "champion": 1},
        ),
        (("feedback", "a-1", "--wrong", "--corrected", "x"), ("recorded",), {"feedback_id": "f-1"}),
        (("dlq", "list"), ("data", "dataset.ready", "NaN is not JSON."), [{"service": "data", **LETTER}]),
        (
            ("dlq", "redrive", "data", "e-1"),
            ("sent to dataset.ready again",),
            {"event_id": "e-1", "topic": "dataset.ready"},
        ),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_what_is_shown(ask: Command, command: tuple[str, ...], shown: tuple[str, ...], document: Any) -> None:
    people = ask(*command)
    assert people.exit_code == Exit.OK, people.output
    for text in shown:
        assert text in people.stdout
    programs = ask(*command, "--json")
    assert programs.exit_code == Exit.OK
    assert json.loads(programs.stdout) == document
    assert "\x1b" not in people.stdout + programs.stdout


@pytest.mark.parametrize(
    ("command", "path", "empty", "hint"),
    [
        (("datasets", "list"), "/api/data/datasets", {"datasets": []}, "driftwheel datasets upload"),
        (("runs", "list"), "/api/trainer/runs", {"runs": []}, "driftwheel datasets upload"),
        (("models", "list"), "/api/registry/models", {"models": []}, "driftwheel apply"),
    ],
)
def test_an_empty_list_says_how_to_fill_it(
    driftwheel: Command, door: Door, command: tuple[str, ...], path: str, empty: Any, hint: str
) -> None:
    door.answers["GET", path] = empty
    assert hint in driftwheel(*command).stdout
    assert driftwheel(*command, "--json").stdout == "[]\n"


def test_what_is_asked(ask: Command, door: Door) -> None:
    ask("runs", "list", "--model", "support")
    ask("models", "rollback", "support", "--to", "1", "--reason", "wrong refunds")
    ask("feedback", "a-1", "--wrong", "--corrected", "card declined")
    assert door.asked == [
        ("GET", "/api/trainer/runs?model=support"),
        ("POST", "/api/registry/models/support/rollback"),
        ("POST", "/v1/feedback"),
    ]
    assert door.bodies[1:] == [
        {"reason": "wrong refunds", "to": 1},
        {"answer_id": "a-1", "correct": False, "corrected": "card declined"},
    ]


def test_upload_waits_for_the_dataset(ask: Command, door: Door, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    door.answers["POST", "/v1/files"] = {"id": "file-1"}
    door.answers["POST", "/api/data/datasets"] = (202, {**BUILD, "state": "queued"})
    told = ask("datasets", "upload", "support", str(rows), "--json")
    assert told.exit_code == Exit.OK
    assert json.loads(told.stdout) == BUILD
    assert "uploading rows.jsonl" in told.stderr
    assert b'{"prompt": "a", "completion": "b"}' in door.bodies[0]
    assert door.bodies[1] == {"model": "support", "files": ["file-1"], "format": None}
    door.answers["GET", "/api/data/datasets/build-1"] = {**BUILD, "state": "failed", "detail": "too few rows"}
    failed = ask("datasets", "upload", "support", str(rows))
    assert failed.exit_code == Exit.FAILED
    assert "too few rows" in failed.stdout
    assert ask("datasets", "upload", "support", str(tmp_path / "none.jsonl")).exit_code == Exit.NOT_FOUND


def test_chat_puts_the_answer_on_stdout_and_its_id_beside_it(driftwheel: Command, door: Door) -> None:
    body = {"choices": [{"message": {"content": "[bold]card[/] declined"}}]}
    door.answers["POST", "/v1/chat/completions"] = JSONResponse(
        body, headers={"x-answer-id": "a-1", "x-model-version": "1"}
    )
    told = driftwheel("chat", "support", "why?")
    assert told.stdout == "[bold]card[/] declined\n"
    assert "version 1 · answer a-1" in told.stderr
    assert json.loads(driftwheel("chat", "support", "why?", "--json").stdout) == {
        "answer_id": "a-1",
        "version": "1",
        **body,
    }


def test_a_policy_comes_from_stdin_too(driftwheel: Command, door: Door) -> None:
    door.answers["POST", "/api/registry/policies"] = {"model": "support", "revision": 1, "changed": True}
    from typer.testing import CliRunner

    from services.console.cli import app

    told = CliRunner().invoke(
        app, ["apply", "-"], input="model: support\n", env={"DRIFTWHEEL_HOME": str(driftwheel.home)}
    )
    assert told.exit_code == Exit.OK, told.output
    assert door.bodies == [{"model": "support"}]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_pipe_that_nobody_reads_ends_a_command_quietly(
    driftwheel: Command, door: Door, as_json: bool
) -> None:
    door.answers["GET", "/api/trainer/runs"] = {"runs": [RUN] * 2_000}
    command = [sys.executable, "-m", "services.console.cli", "runs", "list", *(["--json"] if as_json else [])]
    process = subprocess.Popen(
        command,
        env={"DRIFTWHEEL_HOME": str(driftwheel.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.wait(60) == Exit.PIPE
    assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("driftwheel ru", {"runs"}),
        ("driftwheel runs sh", {"show"}),
        ("driftwheel runs show run-", {"run-1"}),
        ("driftwheel runs list --model ", {"support"}),
        ("driftwheel models show s", {"support"}),
        ("driftwheel datasets show other", set()),
        ("driftwheel rollouts show ", set()),
    ],
)
def test_the_shell_offers_what_there_is(ask: Command, typed: str, offered: set[str]) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    told = ask(_DRIFTWHEEL_COMPLETE="complete_bash", **words)
    assert set(told.stdout.split()) == offered
    assert told.stderr == ""


def test_a_shell_is_offered_nothing_where_there_is_no_platform(nowhere: Command) -> None:
    words = {"COMP_WORDS": "driftwheel runs show ", "COMP_CWORD": "3"}
    told = nowhere(_DRIFTWHEEL_COMPLETE="complete_bash", **words)
    assert told.output.strip() == ""


def test_keys_have_an_order(driftwheel: Command, door: Door) -> None:
    door.answers["GET", "/api/trainer/runs/run-1"] = {"b": {"z": 1, "y": 2}, "a": 1}
    told = driftwheel("runs", "show", "run-1", "--json").stdout
    assert json.loads(told, object_pairs_hook=list) == [("a", 1), ("b", [("y", 2), ("z", 1)])]


def stream(*states: str) -> Response:
    """The wire format of the services: FastAPI's own, with a comment as it sends to keep a connection open."""
    parts = [format_sse_event(comment="ping")]
    for number, state in enumerate(states, 1):
        data = json.dumps({"state": state, "step": number, "total_steps": 3, "loss": 0.5})
        parts.append(format_sse_event(data_str=data, event=state, id=str(number)))
    return Response(b"".join(parts), media_type="text/event-stream")


@pytest.mark.parametrize(
    ("end", "code"), [("succeeded", Exit.OK), ("failed", Exit.FAILED), ("cancelled", Exit.FAILED)]
)
def test_watch_follows_to_the_end(driftwheel: Command, door: Door, end: str, code: Exit) -> None:
    door.answers["GET", "/api/trainer/runs/run-1/stream"] = stream("accepted", "started", "progress", end)
    door.answers["GET", "/api/trainer/runs/run-1"] = {**RUN, "state": "queued", "ahead": WAITING["ahead"]}
    told = driftwheel("runs", "watch", "run-1")
    assert told.exit_code == code, told.output
    assert f"run-1 {end}" in told.stdout
    assert "run-1 is queued behind 1 job, next ahead: other build-9" in told.stderr
    assert "progress 3/3 loss 0.500" in told.stderr
    lines = driftwheel("runs", "watch", "run-1", "--json").stdout.splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["accepted", "started", "progress", end]


def test_watch_takes_a_broken_stream_up_again(
    driftwheel: Command, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    path = ("GET", "/api/trainer/runs/run-1/stream")
    door.answers[path] = stream("accepted", "started")  # ends without an end, as a service that restarts
    told = driftwheel("runs", "watch", "run-1", "--json")
    assert told.exit_code == Exit.UNAVAILABLE
    assert len(door.asked) > 2
    assert "driftwheel status" in told.stderr
    assert driftwheel("runs", "watch", "run-2").exit_code == Exit.NOT_FOUND


def test_dead_letters_are_shown_even_if_a_service_is_away(ask: Command, door: Door) -> None:
    door.answers["GET", "/api/monitor/dead-letters"] = PlainTextResponse("", 502)
    told = ask("dlq", "list", "--json")
    assert told.exit_code == Exit.UNAVAILABLE
    assert json.loads(told.stdout) == [{"service": "data", **LETTER}]
    assert "monitor does not answer" in told.stderr


def sent(event_id: str, cause: str | None, topic: str) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "topic": topic,
        "correlationid": "c",
        "causationid": cause,
        "refs": [],
        "partition": 0,
        "offset": 1,
        "created_at": "2026-01-01T12:00:00+00:00",
        "sent_at": "2026-01-01T12:00:01+00:00",
        "dead_at": None,
        "error": None,
        "payload": {"verdict": "retrain"},
    }


def test_trace_tells_one_story_and_names_who_is_silent(driftwheel: Command, door: Door) -> None:
    for service in ("data", "trainer", "evaluator", "registry", "serving", "monitor"):
        door.answers["GET", f"/api/{service}/trace/drift-1"] = {"correlations": []}
        door.answers["GET", f"/api/{service}/stories"] = {"service": service, "sent": [], "handled": []}
    door.answers["GET", "/api/monitor/trace/drift-1"] = {"correlations": ["c"]}
    drift, ready = sent("e-1", None, "drift.detected"), sent("e-2", "e-1", "dataset.ready")
    door.answers["GET", "/api/monitor/stories"] = {"service": "monitor", "sent": [drift], "handled": []}
    door.answers["GET", "/api/data/stories"] = {"service": "data", "sent": [ready], "handled": []}
    door.answers["GET", "/api/serving/stories"] = PlainTextResponse("", 502)
    told = driftwheel("trace", "drift-1")
    assert told.exit_code == Exit.OK, told.output
    assert told.stdout.index("drift.detected") < told.stdout.index("dataset.ready")
    assert "serving does not answer" in told.stdout
    assert ("GET", "/api/data/stories?id=c") in door.asked
    document = json.loads(driftwheel("trace", "drift-1", "--json").stdout)
    assert document["unreachable"] == ["serving"]
    assert document["steps"][0]["causes"][0]["topic"] == "dataset.ready"


def test_a_followed_story_says_in_a_pipe_what_it_waits_for(
    driftwheel: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = merge([{"service": "data", "sent": [sent("e-1", None, "dataset.ready")], "handled": []}])
    busy = why(root, [], ["trainer"], datetime.now(UTC))
    stories = iter([([], [], None), ([], [], None), (root, [], busy), (root, [], busy), (root, [], None)])
    monkeypatch.setattr(trace, "look", lambda _: next(stories))
    monkeypatch.setattr(trace, "_PAUSE_SECONDS", 0)
    told = driftwheel("trace", "e-1", "--follow")
    assert told.exit_code == Exit.OK, told.output
    assert told.stderr.splitlines() == [
        "nothing is known of this id yet; Ctrl-C ends",
        "trainer does not answer",
    ]
    assert told.stdout.count("dataset.ready") == 1
    assert "2026-01-01, times in UTC" in told.stdout


def test_an_unknown_id_is_3(driftwheel: Command, door: Door) -> None:
    for service in ("data", "trainer", "evaluator", "registry", "serving", "monitor"):
        door.answers["GET", f"/api/{service}/trace/x"] = {"correlations": []}
        door.answers["GET", f"/api/{service}/stories"] = {"service": service, "sent": [], "handled": []}
    told = driftwheel("trace", "x")
    assert told.exit_code == Exit.NOT_FOUND
    assert "Nothing is known of this id" in told.stdout


@pytest.mark.parametrize("noun", [(), ("datasets",), ("runs",), ("models",), ("events",), ("dlq",)])
def test_every_command_has_help_and_an_example(nowhere: Command, noun: tuple[str, ...]) -> None:
    told = nowhere(*noun, "--help")
    assert told.exit_code == Exit.OK
    commands = load(noun[0]).commands.values() if noun else map(load, ENTRIES)
    leaves = [child for child in commands if not hasattr(child, "commands")]
    assert all("Example: driftwheel" in (leaf.help or "") for leaf in leaves)


def test_status_and_down_of_nothing(nowhere: Command) -> None:
    told = nowhere("status", "--json")
    assert told.exit_code == Exit.UNAVAILABLE
    assert json.loads(told.stdout)["state"] == "stopped"
    assert "driftwheel up" in nowhere("status").stdout
    assert json.loads(nowhere("down", "--json").stdout)["was_running"] is False
