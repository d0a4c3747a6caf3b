"""What the last windows say, and what may be done about it: pure rules.

drift and quality loss -> retrain; drift alone -> label; quality (or errors, or latency) alone -> watch.
Not knowing is its own state: a window without enough data counts for nothing and against nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from services.monitor.domain import Verdict
from shared.contracts.policy import DriftPolicy, RetrainGovernor

_AS_LOUD: dict[Verdict, tuple[Verdict, ...]] = {
    "watch": ("watch", "label", "retrain"),
    "label": ("label", "retrain"),
    "retrain": ("retrain",),
}
"""A verdict is not repeated in a cool-down after one that says as much; a louder one still is."""


@dataclass(frozen=True, slots=True)
class Look:
    """One measured window."""

    window_id: str
    measured_at: datetime
    drifted: bool | None
    hurt: bool | None
    alarmed: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """One announced verdict. `in_flight`: the retraining it started has not ended, and holds the next."""

    window_id: str
    verdict: Verdict
    at: datetime
    in_flight: bool = False


class Decision(NamedTuple):
    verdict: Verdict
    reason: str


def decide(
    looks: Sequence[Look],
    past: Sequence[Past],
    rule: DriftPolicy,
    governor: RetrainGovernor,
    now: datetime,
    feedback_grace: timedelta,
) -> Decision:
    """The verdict to announce now, or `none` with the reason.

    Args:
        looks: measured windows of the serving version since its promotion, oldest first.
        past: verdicts announced for the model.
        feedback_grace: how long a drifted window waits for feedback before labels are asked for.
    """
    recent = looks[-rule.windows :]
    if not recent:
        return Decision("none", "no window has been measured yet")
    newest = recent[-1]
    drifted = _count(look.drifted for look in recent) >= rule.windows_drifted and newest.drifted is True
    hurt = _count(look.hurt for look in recent) >= rule.windows_drifted and newest.hurt is not False
    if drifted and hurt:
        return _unless_held("retrain", "the text drifted and quality fell", newest, past, governor, now)
    if drifted:
        unknown = all(look.hurt is None for look in recent)
        if unknown and now - newest.measured_at < feedback_grace:
            return Decision("none", "the text drifted; waiting for feedback to judge quality")
        known = "quality is unknown for want of feedback" if unknown else "quality holds"
        return _unless_held("label", f"the text drifted; {known}", newest, past, governor, now)
    if hurt or newest.alarmed:
        what = "quality fell" if hurt else "errors or latency are over their bar"
        return _unless_held("watch", f"{what}, without text drift", newest, past, governor, now)
    if newest.drifted is None:
        return Decision("none", "not enough data to judge the newest window")
    return Decision("none", "within bounds")


def wait(have: int, need: int, version: int, *, holds: bool) -> str:
    """What a retraining waits for that has no dataset yet. Which answers it may use, the data service decides."""
    if have < need:
        what = (
            f"waits for {need - have} more corrected answers: {have} of {need} since version {version} serves"
        )
    else:
        what = f"waits for its dataset: {have} of {need} corrected answers are here"
    return what if holds else f"{what}; it no longer holds the next verdict"


def _count(facts: Iterable[bool | None]) -> int:
    return sum(fact is True for fact in facts)


def _unless_held(
    verdict: Verdict, why: str, newest: Look, past: Sequence[Past], governor: RetrainGovernor, now: datetime
) -> Decision:
    if any(one.in_flight for one in past):
        return Decision("none", f"{why}; held: a retraining is in flight")
    if any(one.window_id == newest.window_id and one.verdict == verdict for one in past):
        return Decision("none", f"{why}; already announced for this window")
    until = max((one.at for one in past if one.verdict in _AS_LOUD[verdict]), default=None)
    if until is not None and now < until + timedelta(seconds=governor.cooldown_seconds):
        return Decision("none", f"{why}; held: cooling down since {until.isoformat(timespec='seconds')}")
    return Decision(verdict, why)
