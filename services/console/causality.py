"""One causal story out of what each service told of its part: a forest of events, each with what it caused.

Used by the command line and by the pages alike.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shared.contracts.document import Json
from shared.contracts.stories import LIMIT
from shared.contracts.topology import CONSUMERS, UNVERIFIED


@dataclass(slots=True)
class Step:
    """One event: sent once, handled by some; `jobs` is the long work it set off.

    A row of `handled` with the state `inferred` or `unknown` stands for a consumer that did not answer: what it
    caused shows that it handled the event, or nothing does.

    `source` is `unverified/…` where somebody says it is from one of us, and that one did not send it.
    """

    event_id: str
    topic: str
    source: str = "?"
    causationid: str | None = None
    sent: Json = field(default_factory=dict)
    handled: list[Json] = field(default_factory=list)
    jobs: list[Json] = field(default_factory=list)
    causes: list["Step"] = field(default_factory=list)

    @property
    def at(self) -> str:
        times = [self.sent.get("created_at"), *(row.get("recorded_at") for row in self.handled)]
        return min((time for time in times if time), default="")

    @property
    def payload(self) -> Json:
        found: Json = self.sent.get("payload", {})
        return found

    def by(self, service: str) -> Json | None:
        """How this service handled it, if it did."""
        return next((row for row in self.handled if row["service"] == service), None)

    def walk(self) -> Iterator["Step"]:
        """This step and all that followed from it."""
        yield self
        for caused in self.causes:
            yield from caused.walk()

    def to_json(self) -> Json:
        return {
            "event_id": self.event_id,
            "topic": self.topic,
            "source": self.source,
            "causationid": self.causationid,
            "at": self.at,
            "sent": self.sent,
            "handled": self.handled,
            "jobs": self.jobs,
            "causes": [step.to_json() for step in self.causes],
        }


def merge(parts: Iterable[Json], unreachable: Sequence[str] = ()) -> list[Step]:
    """The causal forest of what the services answered: roots first, each followed by what it caused, by time."""
    parts = list(parts)
    steps: dict[str, Step] = {}
    jobs: list[Json] = []
    for part in parts:
        for row in part["sent"]:
            step = steps.setdefault(row["event_id"], Step(row["event_id"], row["topic"]))
            step.source, step.sent, step.causationid = part["service"], row, row["causationid"]
        for row in part["handled"]:
            step = steps.setdefault(row["event_id"], Step(row["event_id"], row["topic"]))
            step.causationid = step.causationid or row["causationid"]
            if step.source == "?":
                step.source = row["source"].strip("/")
            step.handled.append({"service": part["service"], **row})
        jobs += [{"service": part["service"], **job} for job in part.get("jobs", ())]
    for job in jobs:
        if job["causationid"] in steps:
            steps[job["causationid"]].jobs.append(job)
    told = {part["service"] for part in parts if len(part["sent"]) < LIMIT}
    for step in steps.values():
        if not step.sent and step.source in told:
            step.source = f"{UNVERIFIED.strip('/')}/{step.source}"
    roots = _forest(steps)
    for step in steps.values():
        step.handled += [_inferred(step, name) for name in _silent_consumers(step, unreachable)]
    return roots


def _forest(steps: dict[str, Step]) -> list[Step]:
    roots = []
    for step in sorted(steps.values(), key=lambda step: (step.at, step.event_id)):
        parent = steps.get(step.causationid or "")
        if parent is None or parent is step:
            roots.append(step)
        else:
            parent.causes.append(step)
    return roots


def _silent_consumers(step: Step, unreachable: Sequence[str]) -> list[str]:
    return [name for name in CONSUMERS.get(step.topic, ()) if name in unreachable and not step.by(name)]


def _inferred(step: Step, service: str) -> Json:
    seen = any(caused.source == service for caused in step.causes)
    return {"service": service, "state": "inferred" if seen else "unknown", "error": None}


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Seconds between two ISO times; None if one is missing. Clocks of two machines may disagree: never below 0."""
    if not start or not end:
        return None
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())


def spent(roots: Sequence[Step]) -> dict[str, float]:
    """Where the time went on the way from the first event to the last one, in seconds.

    `outbox`: until Kafka had the event; `topic`: until its consumer took it; `handling`: until that committed; `queue`:
    until a worker was free; `training`, `evaluating`, `working`: its work; `waiting`: for traffic, feedback or people.
    """
    total = dict.fromkeys(
        ("outbox", "topic", "handling", "queue", "training", "evaluating", "working", "waiting"), 0.0
    )
    last = max((step for root in roots for step in root.walk()), key=lambda step: step.at, default=None)
    steps = {step.event_id: step for root in roots for step in root.walk()}
    while last and (cause := steps.get(last.causationid or "")) and cause is not last:
        for kind, seconds in _hop(cause, last):
            total[kind] += seconds or 0.0
        last = cause
    return total


def _hop(cause: Step, effect: Step) -> Iterator[tuple[str, float | None]]:
    """From one event to the one it caused, piece by piece."""
    service = effect.source
    row = cause.by(service) or {}
    job = next((job for job in cause.jobs if job["service"] == service), None)
    yield "outbox", seconds_between(cause.sent.get("created_at"), cause.sent.get("sent_at"))
    yield "topic", seconds_between(row.get("recorded_at"), row.get("received_at"))
    yield "handling", seconds_between(row.get("received_at"), row.get("handled_at"))
    if job is None:
        yield "waiting", seconds_between(row.get("handled_at"), effect.at)
        return
    kind = {"trainer": "training", "evaluator": "evaluating"}.get(service, "working")
    yield "queue", seconds_between(job["deferred_at"], job["started_at"])
    yield kind, seconds_between(job["started_at"], min(filter(None, (job["ended_at"], effect.at))))


def everything(roots: Sequence[Step], unreachable: Sequence[str] = (), **more: Any) -> Json:
    """A story as one document."""
    return {
        "steps": [step.to_json() for step in roots],
        "unreachable": list(unreachable),
        "seconds": {kind: round(seconds, 3) for kind, seconds in spent(roots).items()},
        **more,
    }
