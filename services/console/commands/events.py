"""`driftwheel events tail | search | replay`: events as they pass, as they passed, and once more."""

from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len
from rich.text import Text

from services.console.door import Exit, fail, post
from services.console.layout import Column, prose
from services.console.local_time import clock_in_zone
from services.console.output import AsJson, confirmed, table
from services.console.terminal import err, harmless, out, show_json, show_json_line
from shared.contracts.document import Json
from shared.contracts.topology import SERVICES, TOPICS, UNVERIFIED, believed

if TYPE_CHECKING:
    from rich.status import Status

    from services.console.records import Sought

events = typer.Typer(no_args_is_help=True, help="Events: as they pass, as they passed, and once more.")
_LONGEST_SHOWN = 48
Lines = Annotated[bool, typer.Option("--json", help="One JSON document a line.")]


@events.command()
def tail(
    topic: Annotated[list[str] | None, typer.Option(help="Repeatable; else all.")] = None,
    beginning: Annotated[bool, typer.Option(help="From the first event that is still kept.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="End after this many.")] = None,
    as_json: Lines = False,
) -> None:
    """Events as they pass, one a line. Reads without a group, so it moves nobody's offsets.

    Example: driftwheel events tail --topic model.promoted --beginning
    """
    import asyncio

    known = list(TOPICS)
    if unknown := sorted(set(topic or ()) - set(known)):
        fail(Exit.USAGE, f"There is no topic {unknown[0]}.", f"There are {', '.join(known)}.")
    asyncio.run(_tail(topic or known, beginning, count, as_json))


async def _tail(topics: list[str], beginning: bool, count: int | None, as_json: bool) -> None:
    from services.console.records import reader

    async with reader(*topics, newest=not beginning) as consumer:
        err.print("[dim]waiting for events; Ctrl-C ends[/]")
        async for record in consumer:
            _print(record, as_json)
            count = count - 1 if count else None
            if count == 0:
                return


@events.command()
def search(
    header: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, exact. Repeatable: all must hold.")
    ] = None,
    any_id: Annotated[str, typer.Option("--id", help="Event, story, run, answer, key: any id.")] = "",
    text: Annotated[str, typer.Option(help="Anywhere in the payload, in either case.")] = "",
    topic: Annotated[
        list[str] | None, typer.Option(help="Repeatable, dead-letter topics too; else all topics of events.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--since", help="2h, 30m, 3d, or an ISO time; else all that is kept.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="End after so many.")] = 100,
    as_json: Lines = False,
) -> None:
    """Find events by header, id or text, in all topics at once, straight from Kafka.

    Reads what is there now and ends; without a group, so it moves nobody's offsets.

    Example: driftwheel events search --header ce_source=/crm --since 2h
    """
    import asyncio

    from services.console.records import Sought, since

    pairs = [one.partition("=") for one in header or ()]
    if not all(name and mark for name, mark, _ in pairs):
        fail(Exit.USAGE, "A header is NAME=VALUE.", "Example: --header ce_source=/trainer")
    if not (pairs or any_id or text or topic):
        fail(Exit.USAGE, "Look for what?", "Give --header, --id, --text or --topic.")
    try:
        start = since(from_, datetime.now(UTC)) if from_ else None
    except (ValueError, OverflowError):
        fail(Exit.USAGE, "--since is no time.", "Write 2h, 30m, 3d or 2026-01-31T14:00:00Z.")
    sought = Sought({name: value for name, _, value in pairs}, any_id, text)
    if not asyncio.run(_search(topic or list(TOPICS), start, sought, limit, as_json)):
        raise typer.Exit(int(Exit.NOT_FOUND))


async def _search(
    topics: list[str], start: datetime | None, sought: "Sought", limit: int, as_json: bool
) -> int:
    """How many were found. They are printed as they are found, partition by partition."""
    from services.console.records import past

    found = 0
    with err.status("[dim]looking[/]") as status:
        async with aclosing(past(topics, start, lambda done, of: _progress(status, done, of))) as records:
            async for record in records:
                if sought.found(record):
                    _print(record, as_json)
                    found += 1
                    if found == limit:
                        err.print(f"[dim]{limit} found; there may be more: --limit[/]")
                        return found
    if not found:
        err.print("[dim]no event matches[/]")
    return found


def _progress(status: "Status", done: int, of: int) -> None:
    status.update(f"[dim]{done:,} of {of:,} offsets[/]")


@events.command()
def replay(
    from_: Annotated[str, typer.Option("--from", help="ISO time, or topic/partition/offset.")],
    service: Annotated[str, typer.Option(help="Who reads them again.")],
    topic: Annotated[list[str] | None, typer.Option(help="Repeatable; else all it consumes.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deliver events to a service again. What it handled before has no effect; a dry run says so first.

    New events of these partitions wait until the old ones have passed, a few milliseconds each.

    Example: driftwheel events replay --from 2026-01-31T14:00:00Z --service registry
    """
    if service not in SERVICES:
        fail(Exit.USAGE, f"There is no service {service}.", f"One of: {', '.join(SERVICES)}.")
    asked = {"from": from_, "topics": topic or []}
    dry = post(f"/api/{service}/replay", {**asked, "dry_run": True})
    if not as_json:
        _plan(dry)
    if not dry["here"]:
        if as_json:
            show_json(dry)
        return
    confirmed(f"Deliver {dry['records']:,} records to {service} again, {_effects(dry)}?", yes)
    done = post(f"/api/{service}/replay", {**asked, "dry_run": False})
    if as_json:
        show_json(done)
    else:
        out.print(f"[green]✓[/] {done['records']:,} records come again in {', '.join(done['here'])}")


def _plan(dry: Json) -> None:
    table(
        (
            "topic",
            "records",
            "done: no effect",
            Column("dead: stay dead", 2),
            Column("redriven", 3),
            "unknown: new effects",
            prose("places", 1),
        ),
        [
            (
                t["topic"],
                t["records"],
                t["done"],
                t["dead"],
                t["redriven"],
                t["unknown"],
                _places(t["partitions"]),
            )
            for t in dry["topics"]
        ],
        "Nothing lies between then and what the service has read.",
    )
    if dry["topics"]:
        out.print(f"{dry['records']:,} records, {_effects(dry)}")
    if dry["elsewhere"]:
        err.print(
            f"not read by the replica that answered, and left as they are: {', '.join(dry['elsewhere'])}",
            style="yellow",
            markup=False,
        )


def _places(partitions: list[Json]) -> str:
    return ", ".join(f"p{p['partition']} {p['from']}-{p['to']}" for p in partitions)


def _effects(dry: Json) -> str:
    new = dry["new_effects"]
    return "1 new effect" if new == 1 else f"{new:,} new effects"


def _print(record: Any, as_json: bool) -> None:
    from services.console.records import document
    from shared.contracts.envelope import repair_headers

    if as_json:
        show_json_line(document(record))
        return
    headers = repair_headers(record.headers)
    line = Text(f"{clock_in_zone(headers.get('ce_time')):<12} ", "dim")
    line.append(f"{record.topic:<18}", "cyan")
    line.append(f" p{record.partition}@{record.offset} ", "dim")
    source = believed(record.topic, headers.get("ce_source", "?"))
    line.append(source, "red" if source.startswith(UNVERIFIED) else "green")
    room = None if out.room is None else out.room - line.cell_len - 1
    line.append(f" {summary(document(record)['body'], room)}", "default")
    out.print(line, soft_wrap=True)


def summary(payload: Any, room: int | None) -> str:
    """The plain values of a payload that are not long, as many as there is room for (None: all), each of them whole."""
    if not isinstance(payload, dict):
        payload = {"body": payload}
    plain = [
        f"{name}={harmless(str(value))}"
        for name, value in payload.items()
        if isinstance(value, str | int | float) and value != "" and len(str(value)) <= _LONGEST_SHOWN
    ]
    line = ""
    for one in plain:
        longer = f"{line}  {one}" if line else one
        if room is not None and cell_len(longer) > room:
            return f"{line} …" if cell_len(line) + 2 <= room else line
        line = longer
    return line
