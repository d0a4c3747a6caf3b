"""`driftwheel models …`."""

from typing import Annotated, Any

import typer

from services.console.completion import MODELS, ModelArgument
from services.console.door import get, part, post
from services.console.formats import scored
from services.console.layout import Column, prose
from services.console.local_time import when
from services.console.output import AsJson, facts, short, table
from services.console.terminal import out, show_json

app = typer.Typer(no_args_is_help=True, help="Models, versions, aliases.")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """All logical models and who their champions are.

    Example: driftwheel models list
    """
    found = get("/api/registry/models")["models"]
    if as_json:
        show_json(found)
        return
    table(
        ("model", "champion", Column("challenger", 2), "versions", Column("policy", 1)),
        [
            (
                m["name"],
                m["aliases"]["champion"],
                m["aliases"]["challenger"],
                m["versions"],
                f"revision {m['revision']}",
            )
            for m in found
        ],
        "No model yet. Declare one: driftwheel apply examples/support/policy.yaml",
    )


@app.command()
def show(
    model: Annotated[
        str, typer.Argument(autocompletion=MODELS, help="`support`, or one version: `support:2`.")
    ],
    as_json: AsJson = False,
) -> None:
    """A model with its versions and the history of its aliases, or one version with its lineage.

    Example: driftwheel models show support:2
    """
    name, _, number = model.partition(":")
    if number:
        _version(get(f"/api/registry/models/{part(name)}/versions/{part(number)}"), as_json)
        return
    versions = get(f"/api/registry/models/{part(name)}/versions")["versions"]
    history = get(f"/api/registry/models/{part(name)}/aliases")
    if as_json:
        show_json(
            {"model": get(f"/api/registry/models/{part(name)}"), "versions": versions, "history": history}
        )
        return
    table(
        (
            "version",
            "state",
            "is",
            Column("exact match", 1),
            Column("dataset", 3),
            Column("adapter", 4),
            Column("decided", 2),
        ),
        [
            (
                v["number"],
                v["state"],
                ", ".join(v["aliases"]) or None,
                _score(v),
                short(v["dataset_digest"]),
                short(v["adapter_digest"]),
                when(v["decided_at"]),
            )
            for v in versions
        ],
        f"No version yet. An accepted run makes one: driftwheel runs list --model {name}",
    )
    out.print()
    table(
        ("when", "alias", "version", Column("by", 1), prose("why")),
        [(when(e["at"]), e["alias"], e["version"], e["actor"], e["reason"]) for e in history["events"]],
        "No alias has moved yet.",
    )


def _score(version: dict[str, Any]) -> str | None:
    for score in version["scores"]:
        if (score["subject"], score["split"], score["metric"]) == ("candidate", "test", "exact_match"):
            return scored(score)
    return None


def _version(version: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(version)
        return
    facts(
        [
            ("version", f"{version['model']}:{version['number']}"),
            ("state", version["state"]),
            ("aliases", ", ".join(version["aliases"]) or None),
            ("engine name", version["engine_name"]),
            ("run", version["run_id"]),
            ("dataset", version["dataset_digest"]),
            ("adapter", version["adapter_digest"]),
            ("base", version["base_digest"]),
            ("code", version["code"]),
            ("evaluation", version["evaluation_id"]),
            ("reasons", "; ".join(version["reasons"]) or None),
            ("remedy", version["remedy"] or None),
        ]
    )
    out.print()
    table(
        ("gate", "verdict", "value", "bar", prose("reason")),
        [(v["gate"], v["verdict"], v["value"], v["bar"], v["reason"]) for v in version["verdicts"]],
        "Not evaluated yet.",
    )


@app.command()
def rollback(
    model: ModelArgument,
    reason: Annotated[str, typer.Option(help="Why; it stays in the history.")],
    to: Annotated[int | None, typer.Option(help="A version that was champion; else the one before.")] = None,
    as_json: AsJson = False,
) -> None:
    """Move the champion back, in one call.

    Example: driftwheel models rollback support --reason "wrong refunds"
    """
    body = {"reason": reason} if to is None else {"reason": reason, "to": to}
    found = post(f"/api/registry/models/{part(model)}/rollback", body)
    if as_json:
        show_json(found)
    else:
        out.print(f"[green]✓[/] champion of {model} is version {found['champion']}")
