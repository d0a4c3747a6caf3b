"""`driftwheel apply` and `driftwheel policy …`: what is declared about a model."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.console.completion import ModelArgument
from services.console.door import Exit, call, fail, get, part
from services.console.layout import Column, prose
from services.console.local_time import when
from services.console.output import AsJson, table
from services.console.terminal import err, out, show_json, show_line
from shared.contracts.document import Json

app = typer.Typer(no_args_is_help=True, help="Policies: what is declared about each model.")
PolicyFile = Annotated[Path, typer.Argument(help="A policy; `-` reads it from stdin.")]
EXAMPLE = "See examples/support/policy.yaml, or: driftwheel policy schema"


def apply(file: PolicyFile, as_json: AsJson = False) -> None:
    """Declare a model by its policy, in one document.

    Its data, recipe, gates, ramp, drift and budget. Again changes nothing.

    Example: driftwheel apply examples/support/policy.yaml
    """
    declared = call("POST", "/api/registry/policies", json_body=written(file))
    if as_json:
        show_json(declared)
    else:
        what = "declared" if declared["changed"] else "unchanged"
        out.print(f"[green]✓[/] {declared['model']} {what}, revision {declared['revision']}")


def written(file: Path) -> Json:
    """The document in a file, or on stdin; what is none ends the command."""
    import yaml

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
        document: Any = yaml.safe_load(text)
    except OSError as error:
        fail(Exit.NOT_FOUND, f"{file} cannot be read: {error.strerror}.", "Give the path of a policy.")
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        fail(Exit.USAGE, f"{file} is not YAML: {error}", EXAMPLE)
    if not isinstance(document, dict):
        fail(Exit.USAGE, f"{file} holds no policy.", EXAMPLE)
    return document


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The current policy of every model.

    Example: driftwheel policy list
    """
    found = get("/api/registry/policies")["policies"]
    if as_json:
        show_json(found)
        return
    table(
        ("model", "revision", "by", Column("declared", 1), prose("description", 2)),
        [
            (p["model"], p["revision"], p["actor"], when(p["declared_at"]), p["policy"]["description"])
            for p in found
        ],
        "No policy yet. Declare one: driftwheel apply examples/support/policy.yaml",
    )


@app.command()
def show(
    model: ModelArgument,
    revision: Annotated[int | None, typer.Option(min=1, help="An earlier one; else the current.")] = None,
    as_json: AsJson = False,
) -> None:
    """A policy whole, with its defaults, as `apply` takes it.

    Example: driftwheel policy show support > policy.yaml
    """
    found = get(f"/api/registry/policies/{part(model)}", revision=revision)
    if as_json:
        show_json(found)
        return
    import yaml

    show_line(yaml.safe_dump(found["policy"], sort_keys=False, allow_unicode=True).rstrip())
    declared = when(found["declared_at"])
    err.print(
        f"revision {found['revision']}, by {found['actor']}, {declared.whole if declared else ''}",
        style="dim",
        markup=False,
    )


@app.command()
def validate(file: PolicyFile, as_json: AsJson = False) -> None:
    """Say every mistake in a policy, without a platform. Whether this one can train it is said by `apply`.

    Example: driftwheel policy validate examples/support/policy.yaml
    """
    mistakes = wrong(written(file))
    if as_json:
        show_json(mistakes)
    elif mistakes:
        table(("where", prose("what is wrong")), [(one["where"], one["what"]) for one in mistakes], "")
    else:
        out.print("[green]✓[/] it can be declared")
        err.print(f"do it: driftwheel apply {file}", style="dim", markup=False)
    if mistakes:
        raise typer.Exit(int(Exit.USAGE))


def wrong(document: Json) -> list[dict[str, str]]:
    """Every mistake: where, and what."""
    from pydantic import ValidationError

    from shared.contracts.policy import Policy

    try:
        Policy.model_validate(document)
    except ValidationError as error:
        return [
            {
                "where": ".".join(str(step) for step in one["loc"]) or "the policy",
                "what": "there is no such key here"
                if one["type"] == "extra_forbidden"
                else one["msg"].removeprefix("Value error, "),
            }
            for one in error.errors(include_input=False, include_url=False, include_context=False)
        ]
    return []


@app.command()
def diff(model: ModelArgument, file: PolicyFile, as_json: AsJson = False) -> None:
    """What a file would change about the policy of a model.

    Example: driftwheel policy diff support examples/support/policy.yaml
    """
    document = written(file)
    if mistakes := wrong(document):
        fail(
            Exit.USAGE,
            f"{mistakes[0]['where']}: {mistakes[0]['what']}",
            f"All of them: driftwheel policy validate {file}",
        )
    from shared.contracts.policy import Policy

    declared = flat(get(f"/api/registry/policies/{part(model)}")["policy"])
    meant = flat(Policy.model_validate(document).model_dump(mode="json"))
    changes = [
        {"where": where, "declared": declared.get(where), "file": meant.get(where)}
        for where in sorted(declared.keys() | meant.keys())
        if declared.get(where) != meant.get(where)
    ]
    if as_json:
        show_json(changes)
        return
    table(
        ("where", prose("declared"), prose("file")),
        [(one["where"], one["declared"], one["file"]) for one in changes],
        f"Nothing: {model} is declared so already.",
    )


def flat(document: Any, where: str = "") -> dict[str, Any]:
    """Each plain value under its path; gates by their names, other lists by their places."""
    if isinstance(document, dict):
        steps = document.items()
    elif isinstance(document, list) and any(isinstance(one, dict) for one in document):
        steps = {str(one.get("name", place)): one for place, one in enumerate(document)}.items()
    else:
        return {where: ", ".join(map(str, document)) if isinstance(document, list) else document}
    return {
        path: value
        for step, inner in steps
        for path, value in flat(inner, f"{where}.{step}" if where else str(step)).items()
    }


@app.command()
def schema(as_json: AsJson = False) -> None:
    """Every field of a policy: what it says, and what it is if it is left out. --json is its JSON Schema.

    Example: driftwheel policy schema --json > policy.schema.json
    """
    from shared.contracts.policy import Policy

    found = Policy.model_json_schema()
    if as_json:
        show_json(found)
        return
    table(
        ("field", "default", prose("what it says")),
        list(_fields(found, found["$defs"])),
        "",
    )


def _fields(section: Json, kinds: Json, where: str = "") -> list[tuple[str, Any, str]]:
    rows: list[tuple[str, Any, str]] = []
    for name, field in section["properties"].items():
        path = f"{where}{name}"
        inner = field.get("$ref") or field.get("items", {}).get("$ref")
        if inner:
            rows += _fields(
                kinds[inner.rpartition("/")[2]], kinds, f"{path}{'[]' if 'items' in field else ''}."
            )
            continue
        default = field.get("default")
        shown = ", ".join(map(str, default)) if isinstance(default, list) else default
        rows.append((path, shown, field.get("description", "")))
    return rows
