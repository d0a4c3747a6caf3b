"""The loop as one picture: six stations, the arrows between them, what is wrong, what waits for people. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.console.formats import duration
from services.console.upstream import Answer
from shared.contracts.document import Json

ARROWS = (
    ("data", "dataset.ready", "trainer"),
    ("trainer", "model.trained", "evaluator"),
    ("evaluator", "model.evaluated", "registry"),
    ("registry", "model.approved", "serving"),
    ("serving", "prediction.served", "monitor"),
    ("monitor", "drift.detected", "data"),
)
_LATE_SECONDS = 30.0
_QUEUED_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Arrow:
    """Events of one topic on their way. `lag_seconds` is None while the consumer cannot say."""

    topic: str
    source: str
    target: str
    lag_seconds: float | None
    messages: int
    last_handled_at: str | None

    @property
    def late(self) -> bool:
        return (self.lag_seconds or 0.0) > _LATE_SECONDS


@dataclass(frozen=True, slots=True)
class Station:
    """`headline` says in a few words what it is at; `state` colours it; `url` leads on."""

    service: str
    answer: Answer
    headline: str
    state: str
    url: str
    detail: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong, or waits for somebody, and what to do about it."""

    service: str
    text: str
    command: str
    url: str = ""


def arrow(source: str, topic: str, target: str, pulses: Mapping[str, Answer]) -> Arrow:
    lag: Json = pulses[target].data["lag"].get(topic, {}) if pulses[target].good else {}
    return Arrow(
        topic, source, target, lag.get("seconds"), lag.get("messages", 0), lag.get("last_handled_at")
    )


def stations(pulses: Mapping[str, Answer], newest: Mapping[str, Answer]) -> list[Station]:
    """`newest` holds each service's latest dataset, run, evaluation, model, rollout and drift."""
    return [Station(name, pulses[name], *_headline(name, newest[name])) for name in pulses]


Headline = tuple[str, str, str, str]
"""Headline, state, where it leads, detail."""


def _data(answer: Json) -> Headline:
    rows = answer.get("datasets", [])
    if not rows:
        return "no dataset yet", "", "/datasets", ""
    row = rows[0]
    return (
        f"{row['model']} generation {row['generation'] or '–'}",
        row["state"],
        f"/datasets/{row['id']}",
        row["why"],
    )


def _trainer(answer: Json) -> Headline:
    rows = answer.get("runs", [])
    if not rows:
        return "no run yet", "", "/runs", ""
    row = rows[0]
    at = f"step {row['step']}" + (f" of {row['total_steps']}" if row.get("total_steps") else "")
    return f"{row['model']} {row['method']}", row["state"], f"/runs/{row['id']}", at


def _evaluator(answer: Json) -> Headline:
    rows = answer.get("evaluations", [])
    if not rows:
        return "no evaluation yet", "", "/evaluations", ""
    row = rows[0]
    score = row["candidate"]
    detail = f"exact match {score['value'] * 100:.0f} %" if score else ""
    return row["model"], row["verdict"] or row["state"], f"/evaluations/{row['id']}", detail


def _registry(answer: Json) -> Headline:
    rows = answer.get("models", [])
    if not rows:
        return "no model is declared", "", "/models", ""
    row = max(rows, key=lambda row: row["changed_at"] or "")
    champion = row["aliases"]["champion"]
    headline = f"{row['name']}:{champion}" if champion else row["name"]
    return (
        headline,
        "champion" if champion else "",
        f"/models/{row['name']}",
        f"{row['versions']} version{'' if row['versions'] == 1 else 's'}",
    )


def _serving(answer: Json) -> Headline:
    rows = answer.get("rollouts", [])
    if not rows:
        return "no rollout yet", "", "/rollouts", ""
    row = rows[0]
    state = "paused" if row["state"] == "running" and row.get("paused_at") else row["state"]
    return (
        f"{row['model']}:{row['model_version']}",
        state,
        f"/rollouts/{row['id']}",
        f"{row['weight']:g} % of traffic",
    )


def _monitor(answer: Json) -> Headline:
    rows = answer.get("drifts", [])
    if not rows:
        return "no drift seen", "", "/drift", ""
    row = rows[0]
    return f"{row['model']} drifted", row["verdict"], f"/drift/{row['window_id']}", ""


_HEADLINES = {
    "data": _data,
    "trainer": _trainer,
    "evaluator": _evaluator,
    "registry": _registry,
    "serving": _serving,
    "monitor": _monitor,
}


def _headline(service: str, newest: Answer) -> Headline:
    """Services are deployed one by one: one of another version must not take this page with it."""
    try:
        return _HEADLINES[service](newest.data or {})
    except (KeyError, TypeError):
        return "answers in a way this console does not know", "", "/", "deployed at another version?"


def troubles(pulses: Mapping[str, Answer], arrows: list[Arrow]) -> list[Trouble]:
    """What is wrong now, worst first: away, not ready, dead, stuck, late."""
    found = [trouble for name, answer in pulses.items() for trouble in _of(name, answer)]
    found += [
        Trouble(
            arrow.target,
            f"{arrow.messages} {arrow.topic} wait in Kafka, the oldest for {duration(arrow.lag_seconds)}",
            "driftwheel status",
        )
        for arrow in arrows
        if arrow.late
    ]
    return found


def _of(service: str, answer: Answer) -> Iterator[Trouble]:
    if answer.data is None:
        yield Trouble(service, answer.detail, "driftwheel status")
        return
    pulse = answer.data
    for reason in pulse["reasons"]:
        yield Trouble(service, f"not ready: {reason}", "driftwheel status")
    for piece in pulse.get("parts", ()):
        if piece["state"] in ("stopped", "waiting", "failing"):
            yield Trouble(
                service, f"{piece['name']} {piece['state']}: {piece['detail']}", "driftwheel consumers list"
            )
    if dead := pulse["dead_letters"]:
        text = f"{dead} dead letter{'s' if dead > 1 else ''}"
        yield Trouble(
            service, text, f"driftwheel dlq list --service {service}", f"/dead-letters?service={service}"
        )
    if pulse["outbox"]["age_seconds"] > _LATE_SECONDS:
        age = duration(pulse["outbox"]["age_seconds"])
        yield Trouble(
            service,
            f"{pulse['outbox']['pending']} events wait in the outbox, the oldest for {age}",
            "driftwheel doctor",
        )
    if pulse["jobs"]["oldest_seconds"] > _QUEUED_SECONDS:
        age = duration(pulse["jobs"]["oldest_seconds"])
        yield Trouble(
            service,
            f"{pulse['jobs']['waiting']} jobs wait for a worker, the oldest for {age}",
            "driftwheel status",
        )


def for_people(newest: Mapping[str, Answer]) -> Iterator[Trouble]:
    """What goes on only when a person does something."""
    for row in (newest["serving"].data or {}).get("rollouts", []):
        if row["state"] == "running" and row.get("paused_at"):
            yield Trouble(
                "serving",
                f"the rollout of {row['model']}:{row['model_version']} is paused at {row['weight']:g} %",
                f"driftwheel rollouts resume {row['id']}",
                f"/rollouts/{row['id']}",
            )
    for row in (newest["monitor"].data or {}).get("drifts", []):
        if row["verdict"] == "label":
            yield Trouble(
                "monitor",
                f"{row['model']} drifted, and nobody says yet whether its answers are right: send feedback",
                "driftwheel feedback ANSWER_ID --right",
                f"/drift/{row['window_id']}",
            )
