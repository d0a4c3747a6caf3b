"""A story for a terminal: the causal tree, where the time went, and why it does not move."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from services.console.causality import Step, seconds_between, spent
from services.console.formats import behind, duration
from services.console.local_time import clock, day
from services.console.waiting import Waiting
from shared.contracts.document import Json


def render(roots: Sequence[Step], unreachable: Sequence[str] = (), waiting: Waiting | None = None) -> Group:
    """One line per event: when, what, from whom, and per consumer the time in the topic + the time to handle it."""
    lines: list[Any] = [
        Text(f"{name} does not answer: its own steps are inferred from the others", "yellow")
        for name in unreachable
    ]
    first = next((step.at for root in roots for step in root.walk() if step.at), None)
    if first:
        lines.append(Text(day(first), "dim"))
    for root in roots:
        tree = Tree(_line(root), guide_style="dim")
        _branch(tree, root)
        lines.append(tree)
    if roots:
        lines += [_spent(roots), next_line(waiting)]
    return Group(*(lines or [Text("Nothing is known of this id.", "dim")]))


def _spent(roots: Sequence[Step]) -> Text:
    parts = [f"{kind} {duration(seconds)}" for kind, seconds in spent(roots).items() if seconds >= 0.0005]
    return Text(f"time  {' · '.join(parts) or 'nothing has followed yet'}", "dim")


def next_line(waiting: Waiting | None) -> Text:
    """Why it is not moving, in one line."""
    if waiting is None:
        return Text("end   nothing more is expected", "green")
    usual = (
        "the first time" if waiting.usual_seconds is None else f"usually {duration(waiting.usual_seconds)}"
    )
    line = Text("next  ", "yellow")
    line.append(f"{waiting.topic}", "bold")
    line.append(f" from {waiting.service}, {usual} after {waiting.after}, ")
    line.append(f"{duration(waiting.waited_seconds)} so far", "yellow")
    line.append(f": {waiting.reason}. ")
    line.append(waiting.command, "bold")
    return line


def _branch(tree: Tree, step: Step) -> None:
    """What a step caused; a run's many progress reports are one line."""
    for job in step.jobs:
        tree.add(_job(job))
    progress = [caused for caused in step.causes if _is_progress(caused)]
    for caused in step.causes:
        if len(progress) > 1 and caused is progress[0]:
            line = _line(caused)
            line.append(f"  … {len(progress)} reports until {clock(progress[-1].at)[:8]}", "dim")
            tree.add(line)
        elif len(progress) <= 1 or caused not in progress:
            _branch(tree.add(_line(caused)), caused)


def _is_progress(step: Step) -> bool:
    return not step.causes and step.payload.get("state") == "progress"


def _line(step: Step) -> Text:
    line = Text(f"{clock(step.at) if step.at else '':12}  ", "dim")
    line.append(step.topic, "bold cyan")
    line.append(f"  {step.source}", "green")
    payload = step.payload
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
        _handling(line, row)
    return line


def _handling(line: Text, row: Json) -> None:
    match row["state"]:
        case "done":
            waited = duration(seconds_between(row["recorded_at"], row["received_at"]))
            took = duration(seconds_between(row["received_at"], row["handled_at"]))
            line.append(f"  → {row['service']} {waited} + {took}", "dim")
        case "inferred":
            line.append(f"  → {row['service']} (inferred)", "dim")
        case "unknown":
            line.append(f"  → {row['service']}?", "yellow")
        case "redriven":
            line.append(f"  ↻ {row['service']} redriven", "yellow")
        case state:
            line.append(f"  ✖ {row['service']} {state}: {row['error']}"[:160], "red")


def _job(job: Json) -> Text:
    queued = duration(seconds_between(job["deferred_at"], job["started_at"]))
    line = Text(f"{clock(job['started_at'] or job['deferred_at'])}  ", "dim")
    line.append(f"{job['job']} {job['key']}", "magenta")
    if not job["started_at"]:
        line.append(f"  {behind(job.get('ahead')) or 'waits in the queue'}", "yellow")
    elif not job["ended_at"]:
        line.append(f"  queued {queued}, works since; attempt {job['attempts']}", "yellow")
    else:
        worked = duration(seconds_between(job["started_at"], job["ended_at"]))
        again = f", {job['attempts']} attempts" if job["attempts"] > 1 else ""
        line.append(f"  queued {queued}, worked {worked}{again}", "dim")
        if job["outcome"] != "done":
            line.append(f"  ✖ {job['outcome']}: {job['error']}"[:160], "red")
    return line
