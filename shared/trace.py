"""One causal story from what each service sent and handled: inbox and outbox rows are the record, spans only links."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row
from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from shared.db import UnitOfWork
from shared.text import Json

LIMIT = 2_000
_CORRELATIONS = """
SELECT DISTINCT correlationid FROM (
    SELECT correlationid, id AS place FROM outbox WHERE event_id = %(id)s OR correlationid = %(id)s OR refs @> ARRAY[%(id)s]
    UNION ALL
    SELECT correlationid, "offset" FROM inbox WHERE event_id = %(id)s OR correlationid = %(id)s OR refs @> ARRAY[%(id)s]
) AS found LIMIT 50
"""
_SENT = """
SELECT event_id, topic, correlationid, causationid, refs, partition, "offset", created_at, sent_at, dead_at, error, body
FROM outbox WHERE correlationid = ANY(%(ids)s) AND topic NOT LIKE '%%.dlq' ORDER BY id LIMIT %(limit)s
"""
_HANDLED = """
SELECT event_id, topic, type, source, correlationid, causationid, refs, partition, "offset", state, attempts, error,
    recorded_at, received_at, handled_at FROM inbox WHERE correlationid = ANY(%(ids)s) ORDER BY handled_at LIMIT %(limit)s
"""


async def correlations(work: UnitOfWork, any_id: str) -> list[str]:
    """The stories in which an id occurs: of an event, a run, a dataset, a version, an answer, a correlation."""
    async with (await work.raw()).cursor() as cursor:
        rows = await (await cursor.execute(_CORRELATIONS, {"id": any_id})).fetchall()
    return [row[0] for row in rows]


async def local_trace(work: UnitOfWork, service: str, ids: Sequence[str]) -> Json:
    """What this service sent and handled in the given stories."""
    async with (await work.raw()).cursor(row_factory=dict_row) as cursor:
        parameters = {"ids": list(ids), "limit": LIMIT}
        sent = await (await cursor.execute(_SENT, parameters)).fetchall()
        handled = await (await cursor.execute(_HANDLED, parameters)).fetchall()
    for row in sent:
        row["payload"] = _summary(row.pop("body"))
    return {
        "service": service,
        "sent": [_plain(row) for row in sent],
        "handled": [_plain(row) for row in handled],
    }


def _summary(body: bytes | None) -> Json:
    """The scalars of a payload: enough to read a story, without its bulk."""
    payload = json.loads(body) if body else {}
    return {
        name: item for name, item in payload.items() if isinstance(item, str | int | float) and item != ""
    }


def _plain(row: Json) -> Json:
    return {name: item.isoformat() if isinstance(item, datetime) else item for name, item in row.items()}


@dataclass(slots=True)
class Step:
    """One event: sent once, handled by some."""

    event_id: str
    topic: str
    source: str = "?"
    causationid: str | None = None
    sent: Json = field(default_factory=dict)
    handled: list[Json] = field(default_factory=list)
    causes: list["Step"] = field(default_factory=list)

    @property
    def at(self) -> str:
        times = [self.sent.get("created_at"), *(row["recorded_at"] for row in self.handled)]
        return min((time for time in times if time), default="")

    def to_json(self) -> Json:
        return {
            "event_id": self.event_id,
            "topic": self.topic,
            "source": self.source,
            "causationid": self.causationid,
            "at": self.at,
            "sent": self.sent,
            "handled": self.handled,
            "causes": [step.to_json() for step in self.causes],
        }


def merge(parts: Iterable[Json]) -> list[Step]:
    """The causal forest of what the services answered: roots first, each followed by what it caused, by time."""
    steps: dict[str, Step] = {}
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
    ordered = sorted(steps.values(), key=lambda step: (step.at, step.event_id))
    roots = []
    for step in ordered:
        parent = steps.get(step.causationid or "")
        if parent is None or parent is step:
            roots.append(step)
        else:
            parent.causes.append(step)
    return roots


def render(roots: Sequence[Step], unreachable: Sequence[str] = ()) -> Group:
    """The story for a terminal: one line per event, times in milliseconds."""
    lines: list[Any] = [
        Text(f"{name} did not answer: its steps may be missing", "yellow") for name in unreachable
    ]
    for root in roots:
        tree = Tree(_line(root), guide_style="dim")
        _branch(tree, root)
        lines.append(tree)
    return Group(*(lines or [Text("Nothing is known of this id.", "dim")]))


def _branch(tree: Tree, step: Step) -> None:
    """What a step caused; a run's many progress reports are one line."""
    progress = [caused for caused in step.causes if _is_progress(caused)]
    for caused in step.causes:
        if len(progress) > 1 and caused is progress[0]:
            line = _line(caused)
            line.append(f"  … {len(progress)} reports until {progress[-1].at[11:19]}", "dim")
            tree.add(line)
        elif len(progress) <= 1 or caused not in progress:
            _branch(tree.add(_line(caused)), caused)


def _is_progress(step: Step) -> bool:
    return not step.causes and step.sent.get("payload", {}).get("state") == "progress"


def _line(step: Step) -> Text:
    line = Text(f"{step.at[11:23]}  ", "dim")
    line.append(step.topic, "bold cyan")
    line.append(f"  {step.source}", "green")
    payload = step.sent.get("payload", {})
    told = [
        str(payload[name])
        for name in ("state", "verdict", "model_version", "why", "reason")
        if name in payload
    ]
    if told:
        line.append(f"  {' · '.join(told)[:80]}")
    if step.sent.get("dead_at"):
        line.append(f"  never sent: {step.sent['error']}", "red")
    elif step.sent and not step.sent.get("sent_at"):
        line.append("  waiting in the outbox", "yellow")
    for row in step.handled:
        took = _milliseconds(row["received_at"], row["handled_at"])
        waited = _milliseconds(row["recorded_at"], row["received_at"])
        if row["state"] == "done":
            line.append(f"  → {row['service']} {waited}+{took} ms", "dim")
        else:
            line.append(f"  ✖ {row['service']} {row['state']}: {row['error']}"[:160], "red")
    return line


def _milliseconds(start: str, end: str) -> int:
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1_000)
