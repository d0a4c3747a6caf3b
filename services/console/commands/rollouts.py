"""`driftwheel rollouts …`."""

from typing import Annotated, Any

import typer

from services.console.completion import ModelOption, RolloutArgument
from services.console.door import get, part, post
from services.console.formats import duration, percent
from services.console.layout import Column, prose
from services.console.local_time import when
from services.console.output import AsJson, facts, table
from services.console.terminal import out, show_json

app = typer.Typer(no_args_is_help=True, help="Rollouts: a version's way to all of the traffic.")
Reason = Annotated[str, typer.Option(help="Why; it stays in the history.")]


@app.command("list")
def list_(
    model: ModelOption = None,
    after: Annotated[str | None, typer.Option(help="The last id of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """Rollouts, newest first.

    Example: driftwheel rollouts list --model support
    """
    found = get("/api/serving/rollouts", model=model, after=after, limit=limit)
    if as_json:
        show_json(found["rollouts"])
        return
    table(
        (
            "rollout",
            "version",
            "state",
            Column("step", 3),
            Column("traffic", 1),
            Column("planned", 2),
            prose("why", 4),
        ),
        [
            (
                one["id"],
                f"{one['model']}:{one['model_version']}",
                state(one),
                f"{one['step'] + 1}/{len(one['plan']['steps'])}" if one["started_at"] else None,
                f"{one['weight']:g} %",
                when(one["created_at"]),
                one["reason"] or None,
            )
            for one in found["rollouts"]
        ],
        "No rollout yet. An approved version gets one: driftwheel models list",
    )


@app.command()
def show(rollout: RolloutArgument, as_json: AsJson = False) -> None:
    """One rollout: its ramp, what its next test waits for, its guards against their bounds, what happened.

    Example: driftwheel rollouts show 5a0c3a52-5a3b-5d41-9d4b-6f2d1c9a7e10
    """
    found = get(f"/api/serving/rollouts/{part(rollout)}")
    if as_json:
        show_json(found)
        return
    judged = found["judgement"] or {"needs": [], "guards": [], "arms": []}
    facts(
        [
            ("rollout", found["id"]),
            ("version", f"{found['model']}:{found['model_version']}"),
            ("champion", found["champion_version"]),
            ("state", state(found)),
            ("traffic", f"{found['weight']:g} %"),
            ("why", found["reason"] or None),
            (
                "waits for",
                "; ".join(
                    f"{n['have']} of {n['need']} {n['what']}"
                    for n in judged["needs"]
                    if n["have"] < n["need"]
                )
                or None,
            ),
        ]
    )
    out.print()
    table(
        ("step", "state", "took"),
        [(f"{one['weight']} %", one["state"], duration(one["seconds"])) for one in found["steps"]],
        "It has no steps.",
    )
    if judged["guards"]:
        out.print()
        table(
            ("guard", "says", "now", Column("interval", 1), "bound", prose("from", 2)),
            [
                (g["guard"], g["verdict"], percent(g["value"], 1), _interval(g), percent(g["bound"], 1), g["text"])
                for g in judged["guards"]
            ],
            "",
        )  # fmt: skip
    out.print()
    table(
        ("when", "what", "traffic", prose("why")),
        [(when(c["at"]), c["state"], f"{c['weight']:g} %", c["reason"] or None) for c in found["changes"]],
        "Nothing has happened to it yet.",
    )


@app.command()
def pause(rollout: RolloutArgument, reason: Reason, as_json: AsJson = False) -> None:
    """Keep its share of the traffic and judge nothing until resumed; five errors in a row still roll it back.

    Example: driftwheel rollouts pause ROLLOUT --reason "a customer complained"
    """
    _act(rollout, "pause", {"reason": reason}, as_json)


@app.command()
def resume(rollout: RolloutArgument, as_json: AsJson = False) -> None:
    """Judge it again, on everything answered since its step began.

    Example: driftwheel rollouts resume ROLLOUT
    """
    _act(rollout, "resume", {}, as_json)


@app.command()
def abort(rollout: RolloutArgument, reason: Reason, as_json: AsJson = False) -> None:
    """Send all traffic back to the champion, and withdraw the version.

    Example: driftwheel rollouts abort ROLLOUT --reason "wrong refunds"
    """
    _act(rollout, "abort", {"reason": reason}, as_json)


def _act(rollout: str, verb: str, body: dict[str, Any], as_json: bool) -> None:
    found = post(f"/api/serving/rollouts/{part(rollout)}/{verb}", body)
    if as_json:
        show_json(found)
        return
    out.print(
        f"{found['model']}:{found['model_version']} is {state(found)} at {found['weight']:g} %", markup=False
    )


def state(one: dict[str, Any]) -> str:
    return "paused" if one["paused_at"] else str(one["state"])


def _interval(guard: dict[str, Any]) -> str | None:
    if guard["low"] is None:
        return None
    return f"{percent(guard['low'], 1)} to {percent(guard['high'], 1)}"
