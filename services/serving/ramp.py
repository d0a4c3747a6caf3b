"""The rule that moves a rollout: advance, hold, roll back or complete."""

import math
from dataclasses import dataclass
from typing import Literal

from services.serving.intervals import Sample, difference, quantile, wilson
from shared.policy import Ramp

TRIPWIRE = 5
"""Challenger errors in a row, each one answered by the champion instead, that end a rollout at once."""
LATENCY_SAMPLES = 100
"""Champion answers below which its p99 says nothing."""
SCORED_SAMPLES = 5
"""Scored answers of either arm below which quality is not judged: the bounds are too narrow there."""
GUARDS = 3


@dataclass(frozen=True, slots=True)
class Arm:
    """What one version did: answers (failed ones included), scores in [0, 1], latency in milliseconds."""

    answers: int = 0
    errors: int = 0
    latency_p99_ms: float | None = None
    slow: int = 0
    feedback: int = 0
    mean_score: float | None = None

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
    """One guard's answer. Worse = beyond what is tolerated, and not by chance; unsure = perhaps by chance."""

    verdict: Literal["fine", "unsure", "worse", "unmeasured"]
    text: str


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
    needs = [
        ("challenger answers", stats.challenger.answers, plan.min_samples << stats.looks),
        ("scored challenger answers", stats.challenger.feedback, plan.min_feedback << stats.looks),
    ]
    if plan.steps[step] < 100 and stats.champion is not None:
        needs += [
            ("champion answers", stats.champion.answers, plan.min_samples),
            ("scored champion answers", stats.champion.feedback, plan.min_feedback),
        ]
    return "; ".join(f"{have} of {need} {what}" for what, have, need in needs if have < need)


def judge(plan: Ramp, stats: Stats) -> tuple[Finding, Finding, Finding]:
    """The three guards: errors, quality, latency."""
    z = quantile((1 - plan.confidence) / (GUARDS * len(plan.steps) * 2 ** (stats.looks + 1)))
    champion = stats.champion or Arm()
    return (
        _errors(plan, stats.challenger, champion, z),
        _quality(plan, stats.challenger, champion, z),
        _latency(plan, stats.challenger, champion, z),
    )


def _finding(harm: float, tolerated: float, low: float, text: str) -> Finding:
    if not math.isfinite(harm):
        return Finding("unsure", f"{text} (not finite)")
    if harm <= tolerated:
        return Finding("fine", text)
    return Finding("worse" if low > 0 else "unsure", text)


def _errors(plan: Ramp, challenger: Arm, champion: Arm, z: float) -> Finding:
    rate = challenger.failed
    low = wilson(rate, z).low - plan.max_error_rate
    if champion.answers:
        low = min(low, difference(rate, champion.failed, z).low)
    text = f"errors {challenger.errors} of {challenger.answers} (champion {champion.errors} of {champion.answers})"
    return _finding(rate.mean, plan.max_error_rate, low, text)


def _quality(plan: Ramp, challenger: Arm, champion: Arm, z: float) -> Finding:
    if min(challenger.feedback, champion.feedback) < SCORED_SAMPLES:
        return Finding("unmeasured", "quality unmeasured")
    ours, theirs = challenger.scores, champion.scores
    text = f"mean score {ours.mean:.3f} of {ours.n} (champion {theirs.mean:.3f} of {theirs.n})"
    return _finding(theirs.mean - ours.mean, plan.max_quality_loss, difference(theirs, ours, z).low, text)


def _latency(plan: Ramp, challenger: Arm, champion: Arm, z: float) -> Finding:
    """At most 1 % of answers may be slower than the tolerated multiple of the champion's p99."""
    if champion.latency_p99_ms is None or champion.answers < LATENCY_SAMPLES or not challenger.answers:
        return Finding("unmeasured", "latency unmeasured")
    slow = Sample(challenger.answers, challenger.slow / challenger.answers)
    text = f"{challenger.slow} of {slow.n} slower than {plan.max_latency_ratio:g} x p99 of the champion"
    return _finding(slow.mean, 0.01, wilson(slow, z).low - 0.01, text)
