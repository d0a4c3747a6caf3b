"""What commands show to people. What a program should read has `--json`."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.text import Text

from services.console import layout
from services.console.door import Exit, fail
from services.console.layout import Column
from services.console.terminal import err, harmless, out

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def table(columns: Sequence[str | Column], rows: Sequence[Sequence[Any]], empty: str) -> None:
    """Rows under dim headings, or one line that says why there are none and what makes some."""
    if not rows:
        out.print(f"[dim]{escape(empty)}[/]", soft_wrap=not out.is_terminal)
        return
    lines, left_out = layout.table(columns, rows, out.room)
    _print(lines)
    if left_out:
        err.print(f"[dim]no room here for {', '.join(left_out)}; --json has everything[/]")


def facts(pairs: Sequence[tuple[str, Any]]) -> None:
    """Names and values, one a line."""
    _print(layout.pairs(pairs, out.room))


def _print(lines: Sequence[Text]) -> None:
    out.print(Text("\n").join(lines), soft_wrap=True)


def short(digest: str | None) -> str | None:
    return digest[:12] if digest else None


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
