"""`driftwheel up | down | status | doctor`: the embedded stack on this machine."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from services.console.door import Exit, fail
from services.console.formats import duration, size
from services.console.layout import Column, prose
from services.console.output import AsJson, table
from services.console.terminal import out, show_json
from shared.contracts.document import Json


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running in the background.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start everything on this machine and keep it running.

    Example: driftwheel up --detach
    """
    from infra.local import commands
    from infra.local.stack import StartFailed
    from infra.local.state import AlreadyRunning

    try:
        found = commands.up(detach=detach)
    except (StartFailed, AlreadyRunning) as error:
        fail(Exit.UNAVAILABLE, str(error), "Look closer: driftwheel doctor.")
    if as_json:
        show_json(found)


def down(as_json: AsJson = False) -> None:
    """Stop it, and end what a crash left behind.

    Example: driftwheel down
    """
    from infra.local import commands

    found = commands.down()
    if as_json:
        show_json(found)


def status(as_json: AsJson = False) -> None:
    """What runs, since when, with how much memory.

    Example: driftwheel status --json
    """
    from infra.local import commands

    found = commands.status()
    if as_json:
        show_json(found)
    elif found["parts"]:
        _parts(found)
        if found["state"] != "ready":
            out.print("[yellow]not everything is well[/]; what to do: driftwheel doctor")
    else:
        out.print(f"[dim]nothing runs in {found['home']}; start it: driftwheel up[/]")
    if found["state"] == "stopped":
        raise typer.Exit(int(Exit.UNAVAILABLE))


def _parts(found: Json) -> None:
    table(
        (
            "part",
            "state",
            "pid",
            Column("up in", 3),
            Column("restarts", 2),
            Column("memory", 1),
            "address",
            prose("why"),
        ),
        rows(found),
        "",
    )


def rows(found: Json) -> list[tuple[Any, ...]]:
    """A row for each part of a stack's record."""
    from infra.local.commands import MARKS, NO_MARK

    urls = found.get("urls", {})
    return [
        (
            name,
            f"{MARKS.get(part['state'], NO_MARK)[0]} {part['state']}",
            str(part["pid"] or ""),
            duration(part["seconds"]),
            part["restarts"],
            size(part["rss_bytes"]),
            urls.get(name, "").removeprefix("http://"),
            str(part["detail"]).partition("\n")[0],
        )
        for name, part in found["parts"].items()
    ]


def doctor(as_json: AsJson = False) -> None:
    """What is wrong with this machine, and how to mend it.

    Example: driftwheel doctor
    """
    from infra.local.doctor import examine

    checks = examine()
    if as_json:
        show_json([{"check": c.name, "ok": c.ok, "found": c.found, "mend": c.mend} for c in checks])
    else:
        for check in checks:
            mark = "[green]✓[/]" if check.ok else "[red]✗[/]"
            out.print(f"{mark} {check.name:<16} {escape(check.found)}", soft_wrap=True)
            if not check.ok:
                out.print(f"  [dim]→ {escape(check.mend)}[/]", soft_wrap=True)
    if not all(check.ok for check in checks):
        raise typer.Exit(int(Exit.FAILED))
