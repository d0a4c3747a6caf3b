"""`driftwheel datasets …`."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from services.console.completion import BUILDS, ModelArgument, ModelOption
from services.console.door import Exit, call, fail, get, part, post
from services.console.formats import behind
from services.console.layout import Column, told
from services.console.local_time import when
from services.console.output import AsJson, facts, short, table
from services.console.terminal import err, out, show_json
from services.console.transport import Form

app = typer.Typer(no_args_is_help=True, help="Rows in, datasets out.")
BUILD_SECONDS = 3_600


@app.command()
def upload(
    model: ModelArgument,
    files: Annotated[list[Path], typer.Argument(help="jsonl, csv or parquet.")],
    format_: Annotated[str | None, typer.Option("--format", help="Else found out from the rows.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the dataset is built.")] = True,
    as_json: AsJson = False,
) -> None:
    """Upload rows and build a dataset of them.

    Example: driftwheel datasets upload support examples/support/before.jsonl
    """
    ids = []
    for file in files:
        if not file.is_file():
            fail(Exit.NOT_FOUND, f"There is no file {file}.", "Give a jsonl, csv or parquet file.")
        err.print(f"[dim]uploading {file.name}, {file.stat().st_size:,} bytes[/]")
        made = call("POST", "/v1/files", form=Form({"purpose": "fine-tune"}, file))
        ids.append(made["id"])
    build = post("/api/data/datasets", {"model": model, "files": ids, "format": format_})
    deadline = time.monotonic() + BUILD_SECONDS
    while wait and build["state"] in {"queued", "running"} and time.monotonic() < deadline:
        time.sleep(0.5)
        build = get(f"/api/data/datasets/{part(build['id'])}")
    _show(build, as_json)
    if build["state"] in {"failed", "cancelled"}:
        raise typer.Exit(int(Exit.FAILED))


@app.command("list")
def list_(model: ModelOption = None, as_json: AsJson = False) -> None:
    """All datasets, newest first.

    Example: driftwheel datasets list --model support
    """
    found = get("/api/data/datasets", model=model)["datasets"]
    if as_json:
        show_json(found)
        return
    table(
        (
            "build",
            "model",
            "state",
            Column("dataset", 3),
            "rows",
            Column("why", 2),
            Column("made", 1),
        ),
        [
            (
                b["id"],
                b["model"],
                b["state"],
                short(b["digest"]),
                sum(b["rows"].values()),
                b["why"],
                when(b["created_at"]),
            )
            for b in found
        ],
        "No dataset yet. Make one: driftwheel datasets upload MODEL FILE",
    )


@app.command()
def show(
    dataset: Annotated[str, typer.Argument(autocompletion=BUILDS, help="A digest or a build id.")],
    as_json: AsJson = False,
) -> None:
    """One dataset: rows per split, what was dropped and why.

    Example: driftwheel datasets show build-1
    """
    _show(get(f"/api/data/datasets/{part(dataset)}"), as_json)


@app.command()
def cancel(
    build: Annotated[str, typer.Argument(autocompletion=BUILDS, help="A build id.")], as_json: AsJson = False
) -> None:
    """End a build that waits or runs.

    Example: driftwheel datasets cancel build-1
    """
    found = post(f"/api/data/datasets/{part(build)}/cancel")
    if as_json:
        show_json(found)
    else:
        out.print(f"{found['id']} {found['state']}", markup=False)


def _show(build: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(build)
        return
    facts(
        [
            ("build", build["id"]),
            ("model", build["model"]),
            ("state", build["state"]),
            ("detail", build["detail"] or behind(build.get("ahead"))),
            ("dataset", build["digest"]),
            ("generation", build["generation"]),
            ("why", build["why"]),
            ("read", build["read"]),
            *((f"  {split}", rows) for split, rows in build["rows"].items()),
            *((f"  dropped: {reason}", rows) for reason, rows in build["dropped"].items()),
            ("parents", ", ".join(parent[:12] for parent in build["parents"]) or None),
        ]
    )
    for reject in build["rejects"][:3]:
        out.print(f"  e.g. {'  '.join(told(value) for value in reject.values())}", style="dim", markup=False)
