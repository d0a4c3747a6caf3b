"""`driftwheel runs …`."""

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from services.console.completion import RUNS, ModelOption, RunArgument
from services.console.door import LOOK, Exit, fail, get, headers, part, post, refuse, silent, url
from services.console.formats import behind, duration, money, scored
from services.console.layout import Column
from services.console.local_time import when
from services.console.output import AsJson, facts, short, table
from services.console.terminal import err, out, show_json, show_json_line
from services.console.transport import Response, Silent, events
from shared.contracts.document import Json

app = typer.Typer(no_args_is_help=True, help="Training runs.")
_PATIENCE = 10
_BARS = 48
_ENDS = {"succeeded": Exit.OK, "failed": Exit.FAILED, "cancelled": Exit.FAILED, "rejected": Exit.GATE}


@app.command("list")
def list_(model: ModelOption = None, as_json: AsJson = False) -> None:
    """All runs, newest first.

    Example: driftwheel runs list --model support
    """
    found = get("/api/trainer/runs", model=model)["runs"]
    if as_json:
        show_json(found)
        return
    table(
        (
            "run",
            "model",
            "state",
            Column("step", 1),
            Column("loss", 5),
            Column("validation", 4),
            Column("cost", 3),
            Column("made", 2),
        ),
        [
            (
                run["id"],
                run["model"],
                run["state"],
                f"{run['step']}/{run['total_steps']}",
                run["loss"],
                run["validation_loss"],
                _cost(run),
                when(run["created_at"]),
            )
            for run in found
        ],
        "No run yet. A dataset starts one: driftwheel datasets upload MODEL FILE",
    )


@app.command()
def show(run: RunArgument, as_json: AsJson = False) -> None:
    """One run: state, losses, cost, what it was made from and what it made.

    Example: driftwheel runs show run-19
    """
    found = get(f"/api/trainer/runs/{part(run)}")
    if as_json:
        show_json(found)
        return
    facts(
        [
            ("run", found["id"]),
            ("model", found["model"]),
            ("state", found["state"]),
            ("reason", found.get("reason") or behind(found.get("ahead"))),
            ("attempt", found.get("attempt")),
            ("step", f"{found['step']}/{found['total_steps']}"),
            ("loss", found["loss"]),
            ("validation loss", found["validation_loss"]),
            ("cost", _cost(found)),
            ("computing", duration(found["cost"]["device_seconds"]) if found.get("cost") else None),
            ("dataset", short(found.get("dataset_digest"))),
            ("adapter", short(found.get("adapter_digest"))),
        ]
    )
    curve = [p["validation_loss"] for p in found.get("curve") or [] if p.get("validation_loss") is not None]
    if curve:
        out.print("[dim]validation loss [/] " + sparkline(curve))


def _cost(run: Json) -> str | None:
    cost = run.get("cost")
    return money(cost["amount"], cost["currency"]) if cost else None


def sparkline(values: list[float]) -> str:
    """Values as bars of eight heights, at most `_BARS` of them at equal distances."""
    if len(values) > _BARS:
        values = [values[round(place * (len(values) - 1) / (_BARS - 1))] for place in range(_BARS)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[round((value - low) / span * 7)] for value in values)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(autocompletion=RUNS, help="Two runs or more, at most 20.")],
    as_json: AsJson = False,
) -> None:
    """Runs side by side: loss, score on the test split, cost, and where their recipes differ.

    Losses of different datasets say nothing about each other, so the dataset is shown beside them.

    Example: driftwheel runs compare run-19 run-20
    """
    found = get("/api/trainer/runs/comparison", run=runs)["runs"]
    if missing := sorted(set(runs) - {run["id"] for run in found}):
        fail(Exit.NOT_FOUND, f"There is no run {missing[0]}.", "List them: driftwheel runs list")
    scores = _scores({run["model"] for run in found})
    if as_json:
        show_json([{**run, "score": scores.get(run["id"])} for run in found])
        return
    table(
        (
            "run",
            Column("model", 4),
            Column("dataset", 1),
            "validation",
            "exact match",
            Column("step", 3),
            Column("cost", 2),
        ),
        [
            (
                run["id"],
                run["model"],
                short(run["dataset_digest"]),
                (run["best"] or {}).get("validation_loss"),
                scored(scores.get(run["id"])),
                f"{run['step']}/{run['total_steps']}",
                _cost(run),
            )
            for run in found
        ],
        "",
    )
    out.print()
    table(
        ("recipe", *(run["id"] for run in found)),
        differences([run["recipe"] for run in found]),
        "Their recipes are the same.",
    )


def _scores(models: set[str]) -> dict[str, Json]:
    """The candidate's score on the test split, by run."""
    found = [
        one
        for model in sorted(models)
        for one in get("/api/evaluator/evaluations", model=model, summary="true", limit=1_000)["evaluations"]
    ]
    return {one["run_id"]: one["candidate"] for one in reversed(found) if one["candidate"]}


def differences(recipes: list[Json]) -> list[tuple[Any, ...]]:
    """Each key whose values are not all the same, with the value of every recipe."""
    keys = sorted({key for recipe in recipes for key in recipe})
    rows = [(key, *(recipe.get(key) for recipe in recipes)) for key in keys]
    return [row for row in rows if any(value != row[1] for value in row[2:])]


@app.command()
def watch(
    run: RunArgument, as_json: Annotated[bool, typer.Option("--json", help="One line per event.")] = False
) -> None:
    """Follow a run to its end. Ctrl-C stops watching, never the run.

    Example: driftwheel runs watch run-19
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    last: dict[str, Any] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=as_json or not err.is_terminal) as progress:
        bar = progress.add_task(run, total=None, told="")
        if not as_json and (place := behind(get(f"/api/trainer/runs/{part(run)}").get("ahead"))):
            err.print(f"{run} is {place}", style="dim", markup=False)
        for event in _events(run):
            last = event
            if as_json:
                show_json_line(event)
                continue
            loss, validation = event.get("loss"), event.get("validation_loss")
            told = f"{event['state']} {event.get('step', 0)}/{event.get('total_steps', 0)}"
            told += f" loss {loss:.3f}" if loss is not None else ""
            told += f" validation {validation:.3f}" if validation is not None else ""
            progress.update(
                bar, total=event.get("total_steps") or None, completed=event.get("step", 0), told=told
            )
            if not err.is_terminal:
                err.print(told)
    if not as_json:
        told = f"{run} {last.get('state', 'unknown')}  {last.get('reason', '')}".rstrip()
        out.print(told, markup=False)
    raise typer.Exit(int(_ENDS.get(str(last.get("state")), Exit.FAILED)))


def _events(run: str) -> Iterator[dict[str, Any]]:
    """Events of the run to its end; a broken stream is taken up again after the last one seen."""
    seen, failures, path = 0, 0, f"/api/trainer/runs/{part(run)}/stream"
    while failures < _PATIENCE:
        try:
            asked = {**headers(), "last-event-id": str(seen)}
            for told in events(url() + path, headers=asked, timeout=120):
                if isinstance(told, Response):
                    refuse(told)
                number, event = int(told.id or 0), json.loads(told.data)
                if number <= seen:
                    continue
                seen, failures = number, 0
                yield event
                if event["state"] in _ENDS:
                    return
        except Silent as error:
            if not seen:
                silent(error)
        failures += 1
        time.sleep(min(0.1 * 2**failures, 5))
    fail(Exit.UNAVAILABLE, f"The trainer stopped telling of {run}.", LOOK)


@app.command()
def cancel(run: RunArgument, as_json: AsJson = False) -> None:
    """Ask a run to stop; it does so at its next step.

    Example: driftwheel runs cancel run-19
    """
    found = post(f"/api/trainer/runs/{part(run)}/cancel")
    if as_json:
        show_json(found)
    else:
        out.print(f"{found['id']} {found['state']}", markup=False)
