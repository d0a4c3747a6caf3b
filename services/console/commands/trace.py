"""`driftwheel trace ID`: the whole story an id belongs to, and why it does not move."""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from services.console.causality import Step, everything, merge
from services.console.door import LOOK, Exit, everywhere, fail, part
from services.console.output import AsJson
from services.console.story import render
from services.console.terminal import err, out, show_json
from services.console.waiting import Waiting, why
from shared.contracts.document import Json
from shared.contracts.stories import searched
from shared.contracts.topology import SERVICES

_PAUSE_SECONDS = 1.0


def trace(
    any_id: Annotated[
        str, typer.Argument(help="Of anything: event, run, dataset, version, answer, object key.")
    ],
    as_json: AsJson = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until nothing more is expected; Ctrl-C ends.")
    ] = False,
) -> None:
    """The whole story an id belongs to, and what it waits for.

    What caused it, what it caused, where it stands and why.

    Example: driftwheel trace support:2
    """
    roots, silent, waiting = _followed(any_id) if follow else look(any_id)
    if as_json:
        show_json(everything(roots, silent, waiting=waiting.to_json() if waiting else None))
    elif not follow or not out.is_terminal:
        out.print(render(roots, silent, waiting))
    if len(silent) == len(SERVICES):
        fail(Exit.UNAVAILABLE, "No service answered.", LOOK)
    if not roots:
        raise typer.Exit(int(Exit.NOT_FOUND))


def look(any_id: str) -> tuple[list[Step], list[str], Waiting | None]:
    """The story as it stands: steps, services that do not answer, what it waits for."""
    parts, silent = collect(any_id)
    roots = merge(parts, silent)
    return roots, silent, why(roots, parts, silent, datetime.now(UTC))


def collect(any_id: str) -> tuple[list[Json], list[str]]:
    """What each service knows of the stories with this id, and which services did not answer."""
    found = everywhere(f"/trace/{part(searched(any_id))}")
    ids = sorted({one for answer in found.values() if answer for one in answer["correlations"]})[:50]
    told = everywhere("/stories", [("id", one) for one in ids])
    return [answer for answer in told.values() if answer], [name for name, one in told.items() if one is None]


def _followed(any_id: str) -> tuple[list[Step], list[str], Waiting | None]:
    """Looked at each second until the story ends. An id that nobody knows yet is waited for.

    A terminal sees it drawn again; a pipe gets the end, and on stderr what it waits for, whenever that changes.
    """
    from rich.live import Live

    said = ""
    with Live(console=out, auto_refresh=False, transient=False) as screen:
        while True:
            story = look(any_id)
            roots, silent, waiting = story
            if out.is_terminal:
                screen.update(render(roots, silent, waiting), refresh=True)
            if roots and waiting is None:
                return story
            now = waiting.reason if waiting else "nothing is known of this id yet; Ctrl-C ends"
            if now != said and not (roots and out.is_terminal):
                err.print(now, style="dim", markup=False, soft_wrap=True)
            said = now
            time.sleep(_PAUSE_SECONDS)
