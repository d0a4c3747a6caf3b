"""`driftwheel drifts …`."""

from typing import Annotated, Any

import typer

from services.console.completion import DRIFTS, ModelOption
from services.console.door import get, part
from services.console.formats import number, percent
from services.console.layout import Column, prose
from services.console.local_time import when
from services.console.output import AsJson, facts, short, table
from services.console.terminal import out, show_json

app = typer.Typer(no_args_is_help=True, help="What the monitor said about the traffic, and what came of it.")

SHARES = ("quality_loss", "error_rate")
"""Facts that are shares of the answers."""


@app.command("list")
def list_(
    model: ModelOption = None,
    after: Annotated[str | None, typer.Option(help="The last id of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: AsJson = False,
) -> None:
    """Verdicts, newest first.

    Example: driftwheel drifts list --model support
    """
    found = get("/api/monitor/drifts", model=model, after=after, limit=limit)
    if as_json:
        show_json(found["drifts"])
        return
    table(
        (
            "drift",
            "version",
            "verdict",
            Column("severity", 3),
            Column("announced", 2),
            Column("state", 1),
            prose("what came of it", 4),
        ),
        [
            (
                one["id"],
                f"{one['model']}:{one['model_version']}",
                one["verdict"],
                one["severity"],
                when(one["announced_at"]),
                one["state"],
                one["outcome"] or one["stage"] or None,
            )
            for one in found["drifts"]
        ],
        "No verdict yet: nothing drifted, and quality, errors and latency are within their bounds.",
    )


@app.command()
def show(
    drift: Annotated[str, typer.Argument(autocompletion=DRIFTS, help="The id of a drift, or of a window.")],
    as_json: AsJson = False,
) -> None:
    """One verdict with its evidence, or one window of traffic.

    Example: driftwheel drifts show drift-0199
    """
    if drift.startswith("window-"):
        _window(get(f"/api/monitor/windows/{part(drift)}"), as_json)
        return
    found = get(f"/api/monitor/drifts/{part(drift)}")
    if as_json:
        show_json(found)
        return
    facts(
        [
            ("drift", found["id"]),
            ("version", f"{found['model']}:{found['model_version']}"),
            ("verdict", found["verdict"]),
            ("severity", found["severity"]),
            ("announced", when(found["announced_at"])),
            ("state", found["state"]),
            ("what came of it", found["outcome"] or found["stage"] or None),
            ("dataset", short(found["dataset_digest"]) if found["dataset_digest"] else None),
            ("run", found["run_id"]),
            ("new version", found["new_version"]),
            ("event", found["event_id"]),
        ]
    )
    out.print()
    _window(found["window"], as_json=False)


def amount(fact: str, value: float) -> str:
    """A fact's value with its unit, which its name tells."""
    if fact.endswith("_ms"):
        return f"{number(value)} ms"
    return percent(value, 1) if fact in SHARES else number(value)


def _window(window: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(window)
        return
    facts(
        [
            ("window", window["id"]),
            ("version", f"{window['model']}:{window['model_version']}"),
            ("answers", window["predictions"]),
            ("scored", window["scored"]),
            ("corrected", window["corrected"]),
            ("from", when(window["started_at"])),
            ("to", when(window["ended_at"])),
            ("says", window["reason"] or "; ".join(window["notes"]) or window["state"]),
        ]
    )
    out.print()
    table(
        ("fact", "measured", "bound", "exceeded", prose("from", 1)),
        [
            (
                e["name"],
                amount(e["name"], e["value"]),
                amount(e["name"], e["threshold"]),
                e["exceeded"],
                e["detail"],
            )
            for e in window["evidence"]
        ],
        "Nothing was measured on it.",
    )
