"""Tables for people. What a program should read has `--json`."""

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from services.console.door import Exit, fail
from services.console.terminal import err, harmless, out

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
COLOURS = {
    "ready": "green",
    "succeeded": "green",
    "pass": "green",
    "approved": "green",
    "completed": "green",
    "failed": "red",
    "fail": "red",
    "rejected": "red",
    "rolled_back": "red",
    "cancelled": "yellow",
    "insufficient": "yellow",
}


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str) -> None:
    """Rows under dim headings, or one line that says why there are none."""
    if not rows:
        out.print(f"[dim]{escape(empty)}[/]")
        return
    grid = Table(box=None, header_style="dim", pad_edge=False)
    for place, column in enumerate(columns):
        grid.add_column(column, overflow="fold", no_wrap=place == 0)
    for row in rows:
        grid.add_row(*(cell(value) for value in row))
    out.print(grid)


def cell(value: Any) -> str:
    if value is None:
        return "[dim]-[/]"
    text = escape(f"{value:.4g}" if isinstance(value, float) else str(value))
    colour = COLOURS.get(str(value))
    return f"[{colour}]{text}[/]" if colour else text


def facts(pairs: Sequence[tuple[str, Any]]) -> None:
    """Names and values, one a line."""
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, cell(value))
    out.print(grid)


def when(text: str | None) -> str:
    """Local time, to the second."""
    if not text:
        return "-"
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short(digest: str | None) -> str:
    return (digest or "-")[:12]


def confirmed(question: str, yes: bool) -> None:
    """Ask before something that touches much; where nobody can answer, only --yes will do."""
    if yes:
        return
    if not somebody_is_there():
        fail(Exit.USAGE, "Nobody is there to be asked.", "Nothing was changed. Say --yes if it is meant.")
    if not typer.confirm(harmless(question), err=True):
        err.print("nothing was changed", style="dim")
        raise typer.Exit(int(Exit.FAILED))


def somebody_is_there() -> bool:
    """Whether a question would be read by a person."""
    return sys.stdin.isatty()
