"""What follows from the ending of an attempt, and whose turn it is: pure rules."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from shared.contracts.errors import Cancelled, Invalid, RetryLater, Superseded, Unavailable
from shared.jobs.endings import MAX_CRASHES, MAX_RETRIES, Ending, again, ending, given_up, pause
from shared.jobs.queue import Head, turn


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Superseded("newer"), "superseded"),
        (Cancelled("by ann"), "cancelled"),
        (Unavailable("the store is away"), "outage"),
        (psycopg.OperationalError("connection refused"), "outage"),
        (ConnectionResetError(), "retry"),
        (TimeoutError(), "retry"),
        (RetryLater("not yet"), "retry"),
        (psycopg.errors.DeadlockDetected(), "retry"),
        (Invalid("never"), "failed"),
        (ValueError("a bug"), "failed"),
        (MemoryError(), "failed"),
    ],
)
def test_an_error_ends_an_attempt_as_what_it_is(error: Exception, kind: str) -> None:
    assert ending(error).kind == kind


def test_an_outage_is_waited_for_without_end_and_other_troubles_are_not() -> None:
    assert again(Ending("outage"), retries=10**6)
    assert again(Ending("retry"), retries=MAX_RETRIES - 2)
    assert not again(Ending("retry"), retries=MAX_RETRIES - 1)
    assert not again(Ending("failed"), retries=0)


def test_pauses_grow_and_stay_short_enough_to_notice_a_recovery() -> None:
    pauses = [pause(Ending("outage"), times) for times in range(1, 1_000)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (2, 30)


def test_only_crashes_in_a_row_without_progress_give_a_job_up() -> None:
    assert given_up(MAX_CRASHES - 1) is None
    over = given_up(MAX_CRASHES)
    assert over is not None
    assert over.kind == "failed"


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_models_take_turns_however_many_jobs_each_has() -> None:
    busy, quiet = Head(1, "busy", 0, NOW), Head(900, "quiet", 0, NOW - timedelta(hours=1))
    assert turn([busy, quiet]) == quiet
    assert turn([busy, Head(901, "new")]) == Head(901, "new"), "who was never served comes first"
    assert turn([Head(1, "busy", 1, NOW - timedelta(days=1)), Head(9, "quiet", 0, NOW)]) == Head(
        9, "quiet", 0, NOW
    ), "who has none running comes before who waits longer"


def test_the_last_place_is_kept_for_a_model_that_has_none_running() -> None:
    slow = Head(1, "slow", 1, NOW)
    assert turn([slow]) == slow
    assert turn([slow], last_place=True) is None
    assert turn([slow, Head(2, "other", 0, NOW)], last_place=True) == Head(2, "other", 0, NOW)
    assert turn([]) is None
