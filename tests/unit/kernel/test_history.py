"""The checker sees each way in which a platform can go wrong, by name, and nothing in one that did not."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.chaos.history import (
    BrokenHistory,
    Effect,
    Handled,
    History,
    Promotion,
    Record,
    Rule,
    Said,
    demand,
    violations,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOPIC = "model.trained"


def good() -> History:
    """A trainer that said three things of one key, an evaluator that took them; the second died."""
    records = [Record(TOPIC, 0, n, "/trainer", f"e-{n}", b"support", fact=f"run-{n}") for n in range(3)]
    records.append(dataclasses.replace(records[2], offset=3))  # sent twice under one id
    handled = [
        Handled("evaluator", TOPIC, "/trainer", f"e-{n}", 0, n, "dead" if n == 1 else "done", NOON + timedelta(seconds=n))
        for n in range(3)
    ]  # fmt: skip
    said = [Said("trainer", TOPIC, f"e-{n}", n, (0, n)) for n in range(3)]
    said.append(Said("trainer", TOPIC, "e-9", 9))  # on its way
    return History(
        consumers={TOPIC: ("evaluator",)},
        records=records,
        handled=handled,
        said=said,
        effects=[Effect("evaluator", "eval-0"), Effect("evaluator", "eval-2")],
        committed={("evaluator", TOPIC, 0): 4},
        required={
            ("evaluator", records[0].identity): ["eval-0"],
            ("evaluator", records[2].identity): ["eval-2"],
        },
        accepted={TOPIC: ["run-0"]},
        asked=["key-1"],
        answered=["key-1"],
        promotions=[Promotion("support", 1, 1), Promotion("support", 2, 3)],
        champions={("serving", "support"): 3},
    )


def test_a_history_without_faults_passes() -> None:
    demand(good())


def test_what_is_not_read_yet_is_pending_and_not_lost() -> None:
    history = good()
    history.records = [*history.records, Record(TOPIC, 0, 4, "/trainer", "e-9", b"support")]
    demand(history)


def _skip(history: History) -> None:
    history.handled = history.handled[:2]


def _drop(history: History) -> None:
    history.records = [record for record in history.records if record.id != "e-0"]


def _forget_an_effect(history: History) -> None:
    history.effects = history.effects[:1]


def _double_an_effect(history: History) -> None:
    history.effects = [*history.effects, history.effects[0]]


def _say_again_under_another_id(history: History) -> None:
    history.records = [*history.records, dataclasses.replace(history.records[0], offset=5, id="e-7")]
    history.said = [*history.said, Said("trainer", TOPIC, "e-7", 10, (0, 5))]


def _send_what_was_rolled_back(history: History) -> None:
    history.said = history.said[1:]


def _handle_out_of_order(history: History) -> None:
    history.handled = [
        *history.handled[:2],
        dataclasses.replace(history.handled[2], at=NOON - timedelta(seconds=1)),
    ]


def _send_out_of_order(history: History) -> None:
    history.said = [dataclasses.replace(one, number=-one.number) for one in history.said]


def _break_a_promise(history: History) -> None:
    history.accepted = {TOPIC: ["run-8"]}


def _leave_a_request(history: History) -> None:
    history.answered = []


def _miss_a_move(history: History) -> None:
    history.promotions = history.promotions[1:]


def _serve_another(history: History) -> None:
    history.champions = {("serving", "support"): 1}


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (_skip, "lost"),
        (_drop, "lost"),
        (_forget_an_effect, "lost"),
        (_break_a_promise, "lost"),
        (_double_an_effect, "doubled"),
        (_say_again_under_another_id, "doubled"),
        (_send_what_was_rolled_back, "invented"),
        (_handle_out_of_order, "reordered"),
        (_send_out_of_order, "reordered"),
        (_leave_a_request, "unanswered"),
        (_miss_a_move, "audit"),
        (_serve_another, "champion"),
    ],
)
def test_the_checker_names_what_is_wrong(wrong: Callable[[History], None], rule: Rule) -> None:
    history = good()
    wrong(history)
    assert rule in {one.rule for one in violations(history)}
    with pytest.raises(BrokenHistory) as broken:
        demand(history)
    assert rule in broken.value.rules
