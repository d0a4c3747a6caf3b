"""`driftwheel files …`: what was uploaded."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from services.console.completion import FileArgument
from services.console.door import get, part
from services.console.formats import size
from services.console.layout import Column
from services.console.local_time import when
from services.console.output import AsJson, facts, table
from services.console.terminal import show_json
from shared.contracts.document import Json

app = typer.Typer(no_args_is_help=True, help="Files: what was uploaded, to become datasets.")


@app.command("list")
def list_(
    after: Annotated[str | None, typer.Option(help="The last id of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """Uploaded files, newest first.

    Example: driftwheel files list
    """
    found = [in_words(one) for one in get("/v1/files", after=after, limit=limit)["data"]]
    if as_json:
        show_json(found)
        return
    table(
        ("file", "name", "size", Column("purpose", 2), Column("uploaded", 1)),
        [
            (one["id"], one["filename"], size(one["bytes"]), one["purpose"], when(one["created_at"]))
            for one in found
        ],
        "No file yet. Upload one: driftwheel datasets upload MODEL FILE",
    )


@app.command()
def show(file: FileArgument, as_json: AsJson = False) -> None:
    """One uploaded file.

    Example: driftwheel files show file-0193
    """
    found = in_words(get(f"/v1/files/{part(file)}"))
    if as_json:
        show_json(found)
        return
    facts(
        [
            ("file", found["id"]),
            ("name", found["filename"]),
            ("size", f"{found['bytes']:,} bytes"),
            ("purpose", found["purpose"]),
            ("state", found["status"]),
            ("uploaded", when(found["created_at"])),
        ]
    )


def in_words(file: Json) -> Json:
    """OpenAI's document of a file, its time in UTC as everywhere else."""
    return {**file, "created_at": datetime.fromtimestamp(file["created_at"], UTC).isoformat()}
