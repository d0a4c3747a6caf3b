"""The registry's decisions: tables for the cases people argue about, properties for the rest."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.registry import rules
from services.registry.rules import Aliases, Move
from shared.contracts.errors import Conflict
from shared.contracts.events import ModelEvaluated, ObjectRef, RolloutChanged, Score, Verdict
from shared.contracts.policy import Gate, Policy

A, B, C = "a" * 64, "b" * 64, "c" * 64
POLICY = Policy(
    model="support",
    gates=(
        Gate(name="floor", at_least=0.5),
        Gate(name="keeps", split="champion_test", versus="champion", margin=-0.1),
    ),
)
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Made:
    adapter_digest: str = A
    base_digest: str = B
    dataset_digest: str = C


@dataclass(frozen=True)
class Event:
    sequence: int
    alias: str
    version: int | None
    at: datetime = START


def verdict(gate: str, said: str = "pass", reason: str = "because") -> Verdict:
    return Verdict.model_validate({"gate": gate, "verdict": said, "reason": reason})


def evaluated(*verdicts: Verdict, **fields: Any) -> ModelEvaluated:
    said = [one.verdict for one in verdicts]
    known = {
        "model": "support",
        "evaluation_id": "eval-1",
        "run_id": "run-1",
        "adapter_digest": A,
        "base_digest": B,
        "dataset_digest": C,
        "scores": (),
        "verdicts": verdicts,
        "verdict": "fail" if "fail" in said else "insufficient" if "insufficient" in said else "pass",
        "report": ObjectRef(bucket="evaluations", key=f"sha256/{A}/report.json", sha256=A),
    }
    return ModelEvaluated.model_validate(known | fields)


BOTH = (verdict("floor"), verdict("keeps"))


@pytest.mark.parametrize(
    ("event", "champion", "problem", "reason", "remedy"),
    [
        (evaluated(*BOTH), None, None, None, ""),
        (evaluated(*BOTH, champion_version=3), 3, None, None, ""),
        (evaluated(*BOTH), 1, None, "no champion, but by now there is version 1", "Train again"),
        (
            evaluated(*BOTH, champion_version=1),
            2,
            None,
            "version 1, but by now there is version 2",
            "Train again",
        ),
        (evaluated(*BOTH, champion_version=1), None, None, "by now there is no champion", "Train again"),
        (evaluated(*BOTH), None, "the report was altered", "altered", "Evaluate again"),
        (evaluated(*BOTH, adapter_digest=B), None, None, "another adapter", "Evaluate this adapter"),
        (
            evaluated(*BOTH, base_digest=A, dataset_digest=A),
            None,
            None,
            "another base and dataset",
            "Evaluate",
        ),
        (
            evaluated(verdict("floor"), verdict("keeps", "fail", "lost 0.2")),
            None,
            None,
            "lost 0.2",
            "Mix more",
        ),
        (
            evaluated(verdict("floor", "fail"), verdict("keeps")),
            None,
            None,
            "gate floor: fail",
            "worst regressions",
        ),
        (
            evaluated(verdict("floor", "insufficient"), verdict("keeps")),
            None,
            None,
            "insufficient",
            "More held-out rows",
        ),
        (
            evaluated(verdict("floor")),
            None,
            None,
            "gate keeps: insufficient: not evaluated",
            "More held-out rows",
        ),
        (evaluated(), None, None, "gate floor: insufficient: not evaluated", "Evaluate again"),
        (evaluated(*BOTH, verdict="fail"), None, None, "verdict is fail", "More held-out rows"),
        (
            evaluated(verdict("evaluation", "fail", "not finite")),
            None,
            None,
            "not finite",
            "worst regressions",
        ),
        (evaluated(*BOTH, verdict("extra", "fail")), None, None, "gate extra: fail", "worst regressions"),
    ],
)
def test_decisions(
    event: ModelEvaluated, champion: int | None, problem: str | None, reason: str | None, remedy: str
) -> None:
    decision = rules.decide(Made(), event, POLICY, champion, problem)
    assert decision.approved == (reason is None)
    assert reason is None or reason in " | ".join(decision.reasons)
    assert decision.remedy.startswith(remedy) or remedy in decision.remedy


said = st.sampled_from(["pass", "fail", "insufficient"])


@given(
    verdicts=st.lists(st.tuples(st.sampled_from(["floor", "keeps", "extra"]), said), max_size=5),
    verdict_said=said,
    measured=st.none() | st.integers(1, 3),
    champion=st.none() | st.integers(1, 3),
    problem=st.none() | st.just("gone"),
    adapter=st.sampled_from([A, B]),
)
def test_an_approval_rests_on_every_gate_todays_champion_and_the_same_adapter(
    verdicts: list[tuple[str, str]],
    verdict_said: str,
    measured: int | None,
    champion: int | None,
    problem: str | None,
    adapter: str,
) -> None:
    event = evaluated(
        *(verdict(*one) for one in verdicts),
        verdict=verdict_said,
        champion_version=measured,
        adapter_digest=adapter,
    )
    wanted = (
        adapter == A
        and problem is None
        and measured == champion
        and verdict_said == "pass"
        and {one[1] for one in verdicts} == {"pass"}
        and {"floor", "keeps"} <= {one[0] for one in verdicts}
    )
    decision = rules.decide(Made(), event, POLICY, champion, problem)
    assert decision.approved == wanted
    assert bool(decision.remedy) != decision.approved


alias_events = st.lists(
    st.tuples(st.sampled_from(["champion", "challenger"]), st.none() | st.integers(1, 5), st.integers(0, 2)),
    max_size=12,
)


def history(drawn: list[tuple[str, int | None, int]]) -> list[Event]:
    at, made = START, []
    for sequence, (alias, version, seconds) in enumerate(drawn, start=1):
        at += timedelta(seconds=seconds)
        made.append(Event(sequence, alias, version, at))
    return made


@given(drawn=alias_events, random=st.randoms())
def test_the_fold_does_not_depend_on_the_order_of_arrival(
    drawn: list[tuple[str, int | None, int]], random: Any
) -> None:
    events = history(drawn)
    mixed = list(events)
    random.shuffle(mixed)
    assert rules.fold(mixed) == rules.fold(events)
    for name in ("champion", "challenger"):
        last = next((one.version for one in reversed(events) if one.alias == name), None)
        assert getattr(rules.fold(events), name) == last


@given(drawn=alias_events)
def test_the_past_stays_as_it_was(drawn: list[tuple[str, int | None, int]]) -> None:
    events = history(drawn)
    for count, event in enumerate(events, start=1):
        later = [one for one in events[count:] if one.at > event.at]
        if len(later) == len(events) - count:
            assert rules.fold(events, event.at) == rules.fold(events[:count])
    assert rules.fold(events, START - timedelta(seconds=1)) == Aliases()


def served(*versions: int) -> list[Event]:
    return [Event(sequence, "champion", version) for sequence, version in enumerate(versions, start=1)]


@pytest.mark.parametrize(
    ("events", "states", "to", "expected"),
    [
        (served(1, 2), {1: "approved", 2: "approved"}, None, 1),
        (served(1, 2, 3), {1: "approved", 2: "approved", 3: "approved"}, None, 2),
        (served(1, 2, 3, 2), {1: "approved", 2: "approved", 3: "rolled_back"}, None, 1),
        (served(1, 2, 1), {1: "approved", 2: "rolled_back"}, None, "no earlier champion"),
        (served(1, 2, 1), {1: "approved", 2: "rolled_back"}, 2, 2),
        (served(1), {1: "approved"}, None, "no earlier champion"),
        ([], {1: "approved"}, None, "no champion"),
        ([], {1: "approved"}, 1, "no champion"),
        (served(1, 2), {1: "approved", 2: "approved"}, 2, "champion already"),
        (served(1, 2), {1: "approved", 2: "approved", 3: "approved"}, 3, 3),
        (served(1, 2), {1: "approved", 2: "approved", 3: "rejected"}, 3, "never approved"),
        (served(1, 2), {1: "approved", 2: "approved", 3: "rolled_back"}, 3, "never approved"),
        (served(1, 2), {1: "approved", 2: "approved"}, 9, "never approved"),
    ],
)
def test_where_a_rollback_leads(
    events: list[Event], states: dict[int, str], to: int | None, expected: int | str
) -> None:
    if isinstance(expected, int):
        assert rules.rollback_target(events, states, to) == expected
        return
    with pytest.raises(Conflict, match=expected):
        rules.rollback_target(events, states, to)


@given(
    versions=st.lists(st.integers(1, 4), max_size=8),
    states=st.dictionaries(
        st.integers(1, 5), st.sampled_from(["approved", "rejected", "rolled_back", "candidate"])
    ),
    to=st.none() | st.integers(1, 6),
)
def test_a_rollback_never_leads_to_what_was_not_fit_to_serve(
    versions: list[int], states: dict[int, str], to: int | None
) -> None:
    events = served(*versions)
    try:
        target = rules.rollback_target(events, states, to)
    except Conflict:
        return
    assert target != versions[-1]
    assert target in states
    assert states[target] == "approved" or target in versions
    assert to in (None, target)


def rollout(state: str, version: int = 2) -> RolloutChanged:
    return RolloutChanged.model_validate(
        {
            "model": "support",
            "rollout_id": "r",
            "model_version": version,
            "state": state,
            "step": 0,
            "weight": 5,
        }
    )


CLEAR, CHALLENGE, CROWN = Move("challenger", None), Move("challenger", 2), Move("champion", 2)


@pytest.mark.parametrize(
    ("event", "known", "state", "aliases", "expected"),
    [
        ("started", None, "approved", Aliases(1, None), [CHALLENGE]),
        ("started", "started", "approved", Aliases(1, 2), []),
        ("advanced", None, "approved", Aliases(1, None), [CHALLENGE]),
        ("held", "started", "approved", Aliases(1, 2), []),
        ("completed", "advanced", "approved", Aliases(1, 2), [CLEAR, CROWN]),
        ("completed", None, "approved", Aliases(None, None), [CROWN]),
        ("completed", "completed", "approved", Aliases(2, None), []),
        ("completed", None, "approved", Aliases(2, None), []),
        ("started", "completed", "approved", Aliases(2, None), []),
        ("advanced", None, "approved", Aliases(2, None), []),
        ("completed", "rolled_back", "rolled_back", Aliases(1, None), []),
        ("completed", "advanced", "rolled_back", Aliases(1, None), []),
        ("rolled_back", "advanced", "approved", Aliases(1, 2), [CLEAR]),
        ("rolled_back", None, "approved", Aliases(1, 3), []),
        ("completed", "advanced", "approved", Aliases(1, 3), [CROWN]),
    ],
)
def test_what_a_rollout_moves(
    event: str, known: str | None, state: str, aliases: Aliases, expected: list[Move]
) -> None:
    assert rules.moves(rollout(event), known, state, aliases) == expected


@given(
    news=st.lists(st.sampled_from(["started", "advanced", "held", "completed", "rolled_back"]), max_size=8)
)
def test_a_rollout_crowns_at_most_once_and_leaves_no_challenger_behind(news: list[str]) -> None:
    aliases, known, state, crowned = Aliases(1, None), None, "approved", 0
    for name in news:
        event = rollout(name)
        withdrawn = rules.withdrawn(event, known, aliases)
        for move in rules.moves(event, known, state, aliases):
            aliases = aliases._replace(**{move.alias: move.version})
            crowned += move.alias == "champion"
        state = "rolled_back" if withdrawn else state
        known = known if known in rules.TERMINAL else name
    assert crowned <= 1
    assert aliases.champion == (2 if crowned else 1)
    if known in rules.TERMINAL:
        assert aliases.challenger is None
        assert (known == "completed") == bool(crowned)


def test_names_and_quality() -> None:
    assert rules.engine_name("support", 7, "0123456789" + "a" * 54) == "support-v7-01234567"
    score = Score(subject="candidate", split="test", metric="exact_match", value=0.8, low=0.7, high=0.9, n=60)
    other = score.model_copy(update={"split": "champion_test", "value": 0.1})
    assert rules.quality([other.model_dump(), score.model_dump()]) == 0.8
    assert rules.quality([other.model_dump()]) is None
