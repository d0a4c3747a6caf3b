"""Does a candidate pass a declared gate? Pure: answers in, verdict out. Everything is read as "accept if"."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from services.evaluator.domain import Difference, Split
from services.evaluator.intervals import Estimate, difference, estimate, resamples
from services.evaluator.metrics import METRICS, Answered, Metric
from shared.contracts.events import Score, Subject, Verdict
from shared.contracts.policy import Gate

_DIGITS = 12
"""Values are rounded before they are compared: 60 % is 10 points more than 50 %, though 0.6 - 0.5 < 0.1 in floats."""


class Place(NamedTuple):
    """Whose answers to which rows."""

    subject: Subject
    split: Split


Measured = Mapping[Place, Sequence[Answered]]
"""Answers by place; all subjects of a split answered the same rows, in the same order."""


def needed(gates: Sequence[Gate], *, champion: bool) -> list[Place]:
    """What has to be generated: the standard comparison, and whatever the gates ask beyond it."""
    places = [Place("base", "test"), Place("few_shot", "test"), Place("candidate", "test")]
    if champion:
        places += [
            Place("champion", "champion_test"),
            Place("champion", "test"),
            Place("candidate", "champion_test"),
        ]
    for gate in gates:
        if gate.versus and (champion or not _needs_champion(gate)):
            places.append(Place(gate.versus, gate.split))
    return list(dict.fromkeys(places))


def _needs_champion(gate: Gate) -> bool:
    return gate.versus == "champion" or gate.split == "champion_test"


def judge(gate: Gate, measured: Measured, *, champion: bool, min_rows: int) -> Verdict:
    """The verdict of one gate.

    pass: the value reaches the bar, or the gate needs a champion and there is none yet.
    fail: it does not, or the value is not a finite number.
    insufficient: fewer than `min_rows` rows, or a metric we do not have; not a pass.
    """
    if not champion and _needs_champion(gate):
        return Verdict(gate=gate.name, verdict="pass", reason="no champion yet")
    metric = METRICS.get(gate.metric)
    if metric is None:
        reason = f"there is no metric {gate.metric}; there are {', '.join(METRICS)}"
        return Verdict(gate=gate.name, verdict="insufficient", reason=reason)
    found = _measure(gate, metric, measured)
    rows = found.n if found else 0
    if found is None or rows < min_rows:
        reason = f"{rows} held-out rows on {gate.split}, {min_rows} are needed"
        return Verdict(gate=gate.name, verdict="insufficient", reason=reason)
    bar = gate.at_least if gate.at_least is not None else gate.margin
    return _decide(gate, metric, found, bar)


def _measure(gate: Gate, metric: Metric, measured: Measured) -> Estimate | None:
    """The gated value: absolute, or the candidate's advantage over a subject (positive is better)."""
    candidate = metric.statistics(measured.get(Place("candidate", gate.split), ()))
    draws = resamples(len(candidate))
    if gate.versus is None:
        return estimate(metric, candidate, draws)
    other = metric.statistics(measured.get(Place(gate.versus, gate.split), ()))
    if len(other) != len(candidate):
        return None
    pair = (candidate, other) if metric.higher_is_better else (other, candidate)
    return difference(metric, *pair, draws)


def _decide(gate: Gate, metric: Metric, found: Estimate, bar: float) -> Verdict:
    # An advantage is already turned so that more is better; a bare loss or perplexity is not.
    rising = metric.higher_is_better or gate.versus is not None
    value = round(found.value, _DIGITS)
    accepted = value >= bar if rising else value <= bar  # False for NaN
    finite = math.isfinite(value)
    what = f"{gate.metric} advantage over {gate.versus}" if gate.versus else gate.metric
    order = ("at least" if rising else "at most") + f" {bar:.4g}"
    interval = f"95 % interval {found.low:.4g} to {found.high:.4g}, n={found.n}"
    return Verdict(
        gate=gate.name,
        verdict="pass" if accepted and finite else "fail",
        value=value if finite else None,
        bar=bar,
        reason=f"{what} on {gate.split} is {value:.4g}, wanted {order} ({interval})",
    )


def telling(golden: Sequence[object], measured: Measured) -> list[Verdict]:
    """An adapter that answers every held-out question as the base does cannot be told from it after loading: it fails."""
    if golden or not measured.get(Place("candidate", "test")):
        return []
    reason = "every held-out question is answered as the base answers it: the adapter has no effect"
    return [Verdict(gate="unlike-base", verdict="fail", reason=reason)]


def overall(verdicts: Sequence[Verdict]) -> Literal["pass", "fail", "insufficient"]:
    """fail if any gate fails, else insufficient if any is (or there is none), else pass."""
    seen = {verdict.verdict for verdict in verdicts}
    if "fail" in seen:
        return "fail"
    return "pass" if seen == {"pass"} else "insufficient"


def scores(measured: Measured) -> list[Score]:
    """Every metric of every place. A value that is not finite, or of no rows, is left out: it is not a score."""
    found: list[Score] = []
    for place, answered in measured.items():
        draws = resamples(len(answered))
        for name, metric in METRICS.items():
            one = estimate(metric, metric.statistics(answered), draws)
            if one and all(math.isfinite(number) for number in one[:3]):
                found.append(
                    Score(
                        subject=place.subject,
                        split=place.split,
                        metric=name,
                        value=one.value,
                        low=one.low,
                        high=one.high,
                        n=one.n,
                    )
                )
    return found


def differences(measured: Measured) -> list[Difference]:
    """Every metric of the candidate minus that of every other subject, where both answered the same rows."""
    found: list[Difference] = []
    for place, answered in measured.items():
        candidate = measured.get(Place("candidate", place.split), ())
        if place.subject == "candidate" or len(candidate) != len(answered):
            continue
        draws = resamples(len(answered))
        for name, metric in METRICS.items():
            one = difference(metric, metric.statistics(candidate), metric.statistics(answered), draws)
            if one and all(math.isfinite(number) for number in one[:3]):
                found.append(
                    Difference(
                        versus=place.subject,
                        split=place.split,
                        metric=name,
                        higher_is_better=metric.higher_is_better,
                        **one._asdict(),
                    )
                )
    return found
