"""`driftwheel evaluations …`."""

from typing import Annotated

import typer

from services.console.completion import EvaluationArgument, ModelOption
from services.console.door import get, part
from services.console.formats import behind, scored
from services.console.layout import Column, prose
from services.console.local_time import when
from services.console.output import AsJson, facts, short, table
from services.console.terminal import out, show_json

app = typer.Typer(no_args_is_help=True, help="Evaluations: what was measured, and what the gates said.")


@app.command("list")
def list_(
    model: ModelOption = None,
    after: Annotated[str | None, typer.Option(help="The last id of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """Evaluations, newest first; scores are exact match on the test split.

    Example: driftwheel evaluations list --model support
    """
    found = get("/api/evaluator/evaluations", model=model, after=after, limit=limit, summary="true")
    if as_json:
        show_json(found["evaluations"])
        return
    table(
        (
            "evaluation",
            "model",
            Column("run", 4),
            Column("state", 1),
            "verdict",
            "candidate",
            Column("champion", 2),
            Column("made", 3),
        ),
        [
            (
                one["id"],
                one["model"],
                one["run_id"],
                one["state"],
                one["verdict"],
                scored(one["candidate"]),
                scored(one["champion"]),
                when(one["created_at"]),
            )
            for one in found["evaluations"]
        ],
        "No evaluation yet. A run that succeeded gets one: driftwheel runs list",
    )


@app.command()
def show(evaluation: EvaluationArgument, as_json: AsJson = False) -> None:
    """One evaluation: every score with its interval, and each gate with its reason.

    Example: driftwheel evaluations show eval-19
    """
    found = get(f"/api/evaluator/evaluations/{part(evaluation)}")
    if as_json:
        show_json(found)
        return
    facts(
        [
            ("evaluation", found["id"]),
            ("model", found["model"]),
            ("run", found["run_id"]),
            ("state", found["state"]),
            ("verdict", found["verdict"]),
            ("reason", found["reason"] or behind(found.get("ahead"))),
            ("against version", found["champion_version"]),
            ("dataset", short(found["dataset_digest"])),
            ("adapter", short(found["adapter_digest"])),
            ("made", when(found["created_at"])),
            ("ended", when(found["finished_at"])),
        ]
    )
    out.print()
    table(
        ("gate", "verdict", "value", "bar", prose("reason")),
        [(v["gate"], v["verdict"], v["value"], v["bar"], v["reason"]) for v in found["verdicts"]],
        f"No gate has spoken yet. Follow it: driftwheel trace {found['id']}",
    )
    if found["scores"]:
        out.print()
        table(
            ("subject", "split", "metric", "score", Column("rows", 1)),
            [(s["subject"], s["split"], s["metric"], scored(s), s["n"]) for s in found["scores"]],
            "",
        )
