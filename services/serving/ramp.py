"""The rule that moves a rollout: advance, hold, roll back or complete."""

import math
from dataclasses import dataclass
from typing import Literal

from services.serving.intervals import Interval, Sample, difference, quantile, wilson
from shared.contracts.policy import Ramp

TRIPWIRE = 5
"""Challenger errors in a row, each one answered by the champion instead, that end a rollout at once."""
LATENCY_SAMPLES = 100
"""Champion answers below which its p99 says nothing."""
SCORED_SAMPLES = 5
"""Scored answers of either arm below which quality is not judged: the bounds are too narrow there."""
GUARDS = 3
SLOW_SHARE = 0.01
"""Tolerated share of answers slower than max_latency_ratio times the champion's p99."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What one version did: answers (failed ones included), scores in [0, 1], latency in milliseconds."""

    answers: int = 0
    errors: int = 0
    latency_p99_ms: float | None = None
    slow: int = 0
    feedback: int = 0
    mean_score: float | None = None
    latency_p50_ms: float | None = None

    @property
    def failed(self) -> Sample:
        return Sample(self.answers, self.errors / self.answers if self.answers else 0.0)

    @property
    def scores(self) -> Sample:
        return Sample(self.feedback, self.mean_score or 0.0)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a step is judged on.

    Attributes:
        challenger: since the step began; `slow` counts its answers slower than the tolerated ratio times the
            champion's p99.
        champion: over the same time; at 100 %, where it gets no traffic, over the steps before. None: there is none.
        looks: tests already made at this step.
        passed: what the last of them said.
        errors_in_a_row: see TRIPWIRE.
    """

    challenger: Arm
    champion: Arm | None
    looks: int = 0
    passed: bool = False
    errors_in_a_row: int = 0


@dataclass(frozen=True, slots=True)
class Advance:
    reason: str


@dataclass(frozen=True, slots=True)
class Complete:
    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Stay. `looked`: a test was made now; `passed` is the result of the latest one."""

    reason: str
    looked: bool = False
    passed: bool = False


Decision = Advance | Hold | RollBack | Complete


@dataclass(frozen=True, slots=True)
class Finding:
    """One guard's answer. Worse = beyond what is tolerated, and not by chance; unsure = perhaps by chance.

    Attributes:
        value: the harm, a share: failed answers, loss of mean score, answers that are too slow. None: unmeasured.
        bound: how much of it is tolerated.
        interval: of the value, at the confidence of this test.
    """

    guard: Literal["errors", "quality", "latency"]
    verdict: Literal["fine", "unsure", "worse", "unmeasured"]
    text: str
    bound: float
    value: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """Something the next test waits for until `have` reaches `need`."""

    what: str
    have: int
    need: int


def decide(plan: Ramp, step: int, stats: Stats, elapsed: float) -> Decision:
    """What to do after `elapsed` seconds at `step` of `plan`.

    Tests are made only when the challenger's answers reach min_samples x 1, 2, 4, 8 …; test k gets 1/2^(k+1) of the
    error probability, shared over steps and guards. So the chance to roll back an equal version stays below
    1 - confidence however often this is called and however long a step is held. Missing data is a hold.
    """
    if stats.errors_in_a_row >= TRIPWIRE:
        return RollBack(f"{stats.errors_in_a_row} engine errors in a row, while the champion answered")
    if stats.champion is None:
        return Complete("There is no champion to compare with.")
    missing = _missing(plan, step, stats)
    passed = stats.passed
    text = "its test passed" if passed else missing
    if not missing:
        findings = judge(plan, stats)
        text = "; ".join(finding.text for finding in findings)
        if any(finding.verdict == "worse" for finding in findings):
            return RollBack(text)
        passed = all(finding.verdict != "unsure" for finding in findings)
    if not passed:
        return Hold(text, looked=not missing)
    if elapsed < plan.hold_seconds:
        return Hold(f"held for {plan.hold_seconds:g} s", looked=not missing, passed=True)
    return Complete(text) if step + 1 == len(plan.steps) else Advance(text)


def _missing(plan: Ramp, step: int, stats: Stats) -> str:
    """What the next test waits for; empty if it is due."""
    needs = needs_of(plan, step, stats)
    return "; ".join(f"{one.have} of {one.need} {one.what}" for one in needs if one.have < one.need)


def needs_of(plan: Ramp, step: int, stats: Stats) -> list[Need]:
    """All that the next test needs, met or not."""
    needs = [
        Need("challenger answers", stats.challenger.answers, plan.min_samples << stats.looks),
        Need("scored challenger answers", stats.challenger.feedback, plan.min_feedback << stats.looks),
    ]
    if plan.steps[step] < 100 and stats.champion is not None:
        needs += [
            Need("champion answers", stats.champion.answers, plan.min_samples),
            Need("scored champion answers", stats.champion.feedback, plan.min_feedback),
        ]
    return needs


def error_probability(plan: Ramp, looks: int) -> float:
    """The chance that one guard calls an equal version worse in the next test, after `looks` tests at this step."""
    return (1 - plan.confidence) / (GUARDS * len(plan.steps) * 2.0 ** (looks + 1))


def judge(plan: Ramp, stats: Stats) -> tuple[Finding, Finding, Finding]:
    """The three guards: errors, quality, latency."""
    z = quantile(error_probability(plan, stats.looks))
    champion = stats.champion or Arm()
    return (
        _errors(plan, stats.challenger, champion, z),
        _quality(plan, stats.challenger, champion, z),
        _latency(plan, stats.challenger, champion, z),
    )


def _verdict(harm: float, tolerated: float, low: float) -> Literal["fine", "unsure", "worse"]:
    if harm <= tolerated:
        return "fine"
    return "worse" if math.isfinite(harm) and low > 0 else "unsure"


def _errors(plan: Ramp, challenger: Arm, champion: Arm, z: float) -> Finding:
    rate, bound = challenger.failed, plan.max_error_rate
    interval = wilson(rate, z)
    low = interval.low - bound
    if champion.answers:
        low = min(low, difference(rate, champion.failed, z).low)
    text = f"errors {challenger.errors} of {challenger.answers} (champion {champion.errors} of {champion.answers})"
    return Finding("errors", _verdict(rate.mean, bound, low), text, bound, rate.mean, interval)


def _quality(plan: Ramp, challenger: Arm, champion: Arm, z: float) -> Finding:
    bound = plan.max_quality_loss
    if min(challenger.feedback, champion.feedback) < SCORED_SAMPLES:
        return Finding("quality", "unmeasured", "quality unmeasured", bound)
    ours, theirs = challenger.scores, champion.scores
    loss, interval = theirs.mean - ours.mean, difference(theirs, ours, z)
    text = f"mean score {ours.mean:.3f} of {ours.n} (champion {theirs.mean:.3f} of {theirs.n})"
    return Finding("quality", _verdict(loss, bound, interval.low), text, bound, loss, interval)


def _latency(plan: Ramp, challenger: Arm, champion: Arm, z: float) -> Finding:
    """At most 1 % of answers may be slower than the tolerated multiple of the champion's p99."""
    if champion.latency_p99_ms is None or champion.answers < LATENCY_SAMPLES or not challenger.answers:
        return Finding("latency", "unmeasured", "latency unmeasured", SLOW_SHARE)
    slow = Sample(challenger.answers, challenger.slow / challenger.answers)
    interval = wilson(slow, z)
    text = f"{challenger.slow} of {slow.n} slower than {plan.max_latency_ratio:g} x p99 of the champion"
    verdict = _verdict(slow.mean, SLOW_SHARE, interval.low - SLOW_SHARE)
    return Finding("latency", verdict, text, SLOW_SHARE, slow.mean, interval)
