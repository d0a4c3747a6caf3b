"""Why a story does not move: one line, the right reason, and the command that helps."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.console.causality import merge
from services.console.waiting import why
from shared.contracts.text import Json
from tests.unit.console.test_causality import handled, sent

AT = "2026-01-01T00:00:{:02d}+00:00"
NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


def data(**more: Any) -> Json:
    return {
        "service": "data",
        "sent": [sent("e1", "dataset.ready", None, AT.format(1), **more)],
        "handled": [],
    }


def trainer(
    handled_rows: list[Any] = (), sent_rows: list[Any] = (), jobs: list[Any] = (), **more: Any
) -> Json:  # type: ignore[assignment]
    return {"service": "trainer", "sent": [*sent_rows], "handled": [*handled_rows], "jobs": [*jobs], **more}


TAKEN = handled("e1", "dataset.ready", None, AT.format(2))
DEAD = handled("e1", "dataset.ready", None, AT.format(2), state="dead", attempts=3, error="no such model")
REDRIVEN = handled("e1", "dataset.ready", None, AT.format(2), state="redriven")
JOB = {
    "key": "run-1",
    "job": "train",
    "causationid": "e1",
    "attempts": 1,
    "deferred_at": AT.format(2),
    "started_at": None,
    "ended_at": None,
    "outcome": None,
    "error": None,
    "cancel_reason": None,
}
WORKING = {**JOB, "started_at": AT.format(3)}


@pytest.mark.parametrize(
    ("parts", "silent", "reason", "command"),
    [
        ([data(sent_at=None), trainer()], [], "waits in the outbox of data", "driftwheel doctor"),
        (
            [data(dead_at=AT.format(3), error="TooLarge")],
            [],
            "could not send it: TooLarge",
            "driftwheel status",
        ),
        ([data()], ["trainer"], "trainer does not answer", "driftwheel status"),
        (
            [data(), trainer(lag={"dataset.ready": {"seconds": 41.0}})],
            [],
            "trainer has not taken it from Kafka yet (its oldest unread event there is 41 s old)",
            "driftwheel status",
        ),
        (
            [data(), trainer([DEAD])],
            [],
            "died in trainer after 3 attempts: no such model",
            "driftwheel dlq redrive trainer e1",
        ),
        ([data(), trainer([REDRIVEN])], [], "it was redriven", "driftwheel status"),
        ([data(), trainer([TAKEN], jobs=[JOB])], [], "train run-1 waits for a worker", "driftwheel status"),
        (
            [data(), trainer([TAKEN], jobs=[JOB | {"ahead": {"jobs": 3, "model": "other", "key": "run-9"}}])],
            [],
            "train run-1 is queued behind 3 jobs, next ahead: other run-9",
            "driftwheel status",
        ),
        (
            [data(), trainer([TAKEN], jobs=[JOB | {"ahead": {"jobs": 0, "model": None, "key": None}}])],
            [],
            "train run-1 is next in the queue",
            "driftwheel status",
        ),
        (
            [data(), trainer([TAKEN], jobs=[WORKING])],
            [],
            "a worker of trainer is at train run-1, attempt 1",
            "driftwheel runs watch run-1",
        ),
        (
            [
                data(),
                trainer(
                    [TAKEN], jobs=[{**WORKING, "ended_at": AT.format(9), "outcome": "failed", "error": "NaN"}]
                ),
            ],
            [],
            "train run-1 ended: failed NaN",
            "driftwheel runs watch run-1",
        ),
        ([data(), trainer([TAKEN])], [], "trainer has handled it and not answered yet", "driftwheel status"),
    ],
)
def test_the_first_place_where_it_stands_is_named(
    parts: list[Json], silent: list[str], reason: str, command: str
) -> None:
    waiting = why(merge(parts, silent), parts, silent, NOW)
    assert waiting is not None
    assert (waiting.topic, waiting.service, waiting.after) == ("model.trained", "trainer", "dataset.ready")
    assert waiting.waited_seconds == 59
    assert reason in waiting.reason
    assert waiting.command == command


def test_its_own_history_says_what_is_usual() -> None:
    parts = [data(), trainer([TAKEN], usual={"model.trained": {"seconds": 72.5, "count": 4}})]
    waiting = why(merge(parts), parts, [], NOW)
    assert waiting is not None
    assert waiting.usual_seconds == 72.5


def test_what_a_service_says_of_itself_comes_before_a_guess() -> None:
    approved = sent("e1", "model.approved", None, AT.format(1))
    parts = [
        {"service": "registry", "sent": [approved], "handled": []},
        {"service": "serving", "sent": [], "handled": [handled("e1", "model.approved", None, AT.format(2))]},
    ]
    parts[1]["waits"] = [{"reason": "the ramp waits for 8 answers", "command": "driftwheel rollouts show r"}]
    waiting = why(merge(parts), parts, [], NOW)
    assert waiting is not None
    assert (waiting.reason, waiting.command) == ("the ramp waits for 8 answers", "driftwheel rollouts show r")


@pytest.mark.parametrize(
    ("topic", "payload", "after", "answered"),
    [
        ("dataset.ready", {}, ("training.status", {"state": "failed"}), True),
        ("dataset.ready", {}, ("training.status", {"state": "progress"}), False),
        ("training.requested", {}, ("training.status", {"state": "rejected"}), True),
        ("model.trained", {}, ("model.evaluated", {}), True),
        ("model.evaluated", {}, ("model.rejected", {}), True),
        ("model.approved", {}, ("rollout.changed", {"state": "advanced"}), False),
        ("model.approved", {}, ("rollout.changed", {"state": "rolled_back"}), True),
        ("rollout.changed", {"state": "completed"}, ("model.promoted", {}), True),
        ("drift.detected", {"verdict": "label"}, ("nothing", {}), True),
        ("drift.detected", {"verdict": "retrain"}, ("nothing", {}), False),
    ],
)
def test_an_answer_ends_the_wait(topic: str, payload: Json, after: tuple[str, Json], answered: bool) -> None:
    follower, said = after
    parts = [
        {"service": "x", "sent": [sent("e1", topic, None, AT.format(1), payload=payload)], "handled": []},
        {"service": "y", "sent": [sent("e2", follower, "e1", AT.format(2), payload=said)], "handled": []},
    ]
    waiting = why(merge(parts), parts, [], NOW)
    assert (waiting is None or waiting.event_id != "e1") == answered
