"""The decisions of the registry as pure functions: approve or not, who is champion, where a rollback leads."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from services.registry.domain import Alias
from shared.contracts.errors import Conflict
from shared.contracts.events import ModelEvaluated, RolloutChanged
from shared.contracts.policy import Policy

QUALITY = ("candidate", "test", "exact_match")
"""The score that users are promised: subject, split, metric."""


class Lineage(Protocol):
    """What a version says it was made of."""

    adapter_digest: str
    base_digest: str
    dataset_digest: str


class Moved(Protocol):
    """An alias event, as far as the rules need it."""

    sequence: int
    alias: str
    version: int | None
    at: datetime


class Aliases(NamedTuple):
    """Who is what."""

    champion: int | None = None
    challenger: int | None = None


class Decision(NamedTuple):
    """Approved without reasons against, else rejected with them and with what may help."""

    reasons: tuple[str, ...]
    remedy: str = ""

    @property
    def approved(self) -> bool:
        return not self.reasons


class Move(NamedTuple):
    alias: Alias
    version: int | None


def decide(
    lineage: Lineage, evaluated: ModelEvaluated, policy: Policy, champion: int | None, problem: str | None
) -> Decision:
    """Approve only what was measured as it is, against the champion of today, with every declared gate passed.

    Args:
        champion: version that serves now, or None.
        problem: what is wrong with the report that the evaluation names, or None.
    """
    unlike = [
        name
        for name in ("adapter", "base", "dataset")
        if getattr(lineage, f"{name}_digest") != getattr(evaluated, f"{name}_digest")
    ]
    if unlike:
        return Decision((f"the evaluation is of another {' and '.join(unlike)}",), "Evaluate this adapter.")
    if problem:
        return Decision((problem,), "Evaluate again: an approval needs its evidence.")
    if evaluated.champion_version != champion:
        was, now = (f"version {v}" if v else "no champion" for v in (evaluated.champion_version, champion))
        return Decision(
            (f"measured against {was}, but by now there is {now}",), "Train again to compare with it."
        )
    return _by_gates(evaluated, policy)


def _by_gates(evaluated: ModelEvaluated, policy: Policy) -> Decision:
    passed = {one.gate for one in evaluated.verdicts if one.verdict == "pass"}
    against = [
        f"gate {one.gate}: {one.verdict}: {one.reason}" for one in evaluated.verdicts if one.verdict != "pass"
    ]
    named = {one.gate for one in evaluated.verdicts}
    against += [
        f"gate {gate.name}: insufficient: not evaluated" for gate in policy.gates if gate.name not in named
    ]
    if not against and evaluated.verdict != "pass":
        against.append(f"the evaluation's verdict is {evaluated.verdict}")
    if not against:
        return Decision(())
    return Decision(tuple(reason[:2_000] for reason in against[:50]), _remedy(evaluated, policy, passed))


def _remedy(evaluated: ModelEvaluated, policy: Policy, passed: Collection[str]) -> str:
    """The first thing worth trying."""
    failed = {one.gate for one in evaluated.verdicts if one.verdict == "fail"}
    forgotten = {gate.name for gate in policy.gates if gate.split == "champion_test"}
    if failed & forgotten:
        return "Mix more of the champion's training rows into the dataset, or lower rank and learning rate."
    if failed:
        return "Read the worst regressions in the report; correct or add rows of that kind."
    return (
        "More held-out rows: the verdict was insufficient."
        if passed or evaluated.verdicts
        else "Evaluate again."
    )


def fold(events: Iterable[Moved], at: datetime | None = None) -> Aliases:
    """Who is what after all events, or after those up to and including `at`. Order of the input does not matter."""
    state: dict[str, int | None] = {}
    for event in sorted(events, key=lambda one: one.sequence):
        if at is None or event.at <= at:
            state[event.alias] = event.version
    return Aliases(state.get("champion"), state.get("challenger"))


def champions(events: Iterable[Moved]) -> list[int]:
    """Every version that was champion, in order of time; one may occur again."""
    moves = sorted((one for one in events if one.alias == "champion"), key=lambda one: one.sequence)
    return [one.version for one in moves if one.version is not None]


def rollback_target(events: Sequence[Moved], states: Mapping[int, str], to: int | None) -> int:
    """Where a rollback leads: `to`, or the last champion before the present one that was not itself rolled back.

    Args:
        states: state by version number.

    Raises:
        Conflict: there is no champion, nothing to go back to, or `to` was never fit to serve.
    """
    current = fold(events).champion
    if current is None:
        raise Conflict(
            "The model has no champion yet.", "Wait for its first rollout: driftwheel models show."
        )
    served = champions(events)
    if to is None:
        earlier = [one for one in served if one != current and states.get(one) == "approved"]
        if not earlier:
            raise Conflict(
                "There is no earlier champion to go back to.", "Name an approved version with `to`."
            )
        return earlier[-1]
    if to == current:
        raise Conflict(f"Version {to} is the champion already.", "Nothing to do.")
    if states.get(to) == "approved" or (to in served and to in states):
        return to
    raise Conflict(
        f"Version {to} was never approved or champion.",
        "Name one of GET /models/{model}/versions?state=approved.",
    )


TERMINAL = frozenset({"completed", "rolled_back"})


def moves(event: RolloutChanged, known: str | None, state: str, aliases: Aliases) -> list[Move]:
    """What a rollout's news do to the aliases.

    Args:
        known: state of this rollout so far; news about one that ended change nothing.
        state: of the version that is rolled out; one that was rolled back meanwhile does not return by itself.
    """
    if known in TERMINAL or state != "approved":
        return []
    if event.state == "completed":
        clear = [Move("challenger", None)] if aliases.challenger == event.model_version else []
        promote = [Move("champion", event.model_version)] if aliases.champion != event.model_version else []
        return clear + promote
    if event.state == "rolled_back":
        return [Move("challenger", None)] if aliases.challenger == event.model_version else []
    if event.model_version in aliases:
        return []
    return [Move("challenger", event.model_version)]


def withdrawn(event: RolloutChanged, known: str | None, aliases: Aliases) -> bool:
    """A rollout that ends in a rollback withdraws its version, unless that version has become champion since."""
    return event.state == "rolled_back" and known not in TERMINAL and aliases.champion != event.model_version


def quality(scores: Iterable[Mapping[str, object]]) -> float | None:
    """Exact match of the candidate in its evidence."""
    for score in scores:
        if (score.get("subject"), score.get("split"), score.get("metric")) == QUALITY:
            value = score.get("value")
            return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None
    return None


def engine_name(model: str, number: int, adapter_digest: str) -> str:
    """The name an engine sees; version numbers are never given twice, so neither is this."""
    return f"{model}-v{number}-{adapter_digest[:8]}"
