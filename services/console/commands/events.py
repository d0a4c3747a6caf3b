"""`driftwheel trace | events tail | dlq …`: follow what happened, and mend it."""

import asyncio
import json
import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from services.console.door import (
    LOOK,
    SERVICES,
    Exit,
    err,
    everywhere,
    fail,
    out,
    part,
    post,
    show_json,
    stack_state,
    warn,
)
from services.console.output import AsJson, table, when
from shared.envelope import repair_headers
from shared.text import Json

events = typer.Typer(no_args_is_help=True, help="Events as they pass.")
dlq = typer.Typer(no_args_is_help=True, help="Dead letters: what died, why, and again.")


def trace(
    any_id: Annotated[str, typer.Argument(help="Of anything: event, run, dataset, version, answer.")],
    as_json: AsJson = False,
) -> None:
    """The whole story an id belongs to: what caused it, what it caused, where it waits.

    Example: driftwheel trace support:2
    """
    from shared.trace import merge, render

    parts, silent = asyncio.run(collect(any_id))
    roots = merge(parts)
    if as_json:
        show_json({"steps": [step.to_json() for step in roots], "unreachable": silent})
    else:
        out.print(render(roots, silent))
    if len(silent) == len(SERVICES):
        fail(Exit.UNAVAILABLE, "No service answered.", LOOK)
    if not roots:
        raise typer.Exit(int(Exit.NOT_FOUND))


async def collect(any_id: str) -> tuple[list[Json], list[str]]:
    """What each service knows of the stories with this id, and which services did not answer."""
    found = await everywhere(f"/trace/{part(any_id)}")
    ids = sorted({one for answer in found.values() if answer for one in answer["correlations"]})[:50]
    told = await everywhere("/stories", [("id", one) for one in ids])
    return [answer for answer in told.values() if answer], [name for name, one in told.items() if one is None]


@events.command()
def tail(
    topic: Annotated[list[str] | None, typer.Option(help="Repeatable; else all.")] = None,
    beginning: Annotated[bool, typer.Option(help="From the first event that is still kept.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="End after this many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """Events as they pass, one a line. Reads without a group, so it moves nobody's offsets.

    Example: driftwheel events tail --topic model.promoted --beginning
    """
    from shared.events import EVENTS

    known = [event.topic for event in EVENTS]
    if unknown := sorted(set(topic or ()) - set(known)):
        fail(Exit.USAGE, f"There is no topic {unknown[0]}.", f"There are {', '.join(known)}.")
    asyncio.run(_tail(_kafka(), topic or known, beginning, count, as_json))


def _kafka() -> str:
    from infra.local.settings import LocalSettings

    found = LocalSettings().kafka_bootstrap or stack_state().get("urls", {}).get("kafka")
    if not found:
        fail(
            Exit.UNAVAILABLE,
            "No Kafka is known here.",
            "Start one: driftwheel up. Or set DRIFTWHEEL_KAFKA_BOOTSTRAP.",
        )
    return str(found)


async def _tail(bootstrap: str, topics: list[str], beginning: bool, count: int | None, as_json: bool) -> None:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import KafkaError

    reset = "earliest" if beginning else "latest"
    servers = bootstrap.split(",")
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=servers, group_id=None, auto_offset_reset=reset)
    try:
        await consumer.start()
        err.print("[dim]waiting for events; Ctrl-C ends[/]")
        async for record in consumer:
            _print(record, as_json)
            count = count - 1 if count else None
            if count == 0:
                return
    except KafkaError as error:
        fail(Exit.UNAVAILABLE, f"Kafka at {bootstrap} does not answer: {error}.", LOOK)
    finally:
        await consumer.stop()


def _print(record: Any, as_json: bool) -> None:
    headers = repair_headers(record.headers)
    body = (record.value or b"").decode("utf-8", "backslashreplace")
    if as_json:
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        sys.stdout.write(json.dumps({**place, "headers": headers, "body": body}) + "\n")
        sys.stdout.flush()
        return
    line = Text(f"{headers.get('ce_time', '')[11:23]:<12} ", "dim", no_wrap=True, overflow="ellipsis")
    line.append(f"{record.topic:<18}", "cyan")
    line.append(f" p{record.partition}@{record.offset} ", "dim")
    line.append(headers.get("ce_source", "?"), "green")
    line.append(f" {_story(body)}", "default")
    # A pipe gets the whole line; a terminal gets what fits.
    out.print(line, crop=out.is_terminal, soft_wrap=not out.is_terminal)


def _story(body: str) -> str:
    """What a person wants to read of a payload: its plain values, without long digests and empty ones."""
    try:
        payload = json.loads(body)
    except ValueError:
        return body
    if not isinstance(payload, dict):
        return body
    plain = {
        name: value for name, value in payload.items() if isinstance(value, str | int | float) and value != ""
    }
    return "  ".join(f"{name}={str(value)[:36]}" for name, value in plain.items())


@dlq.command("list")
def list_(as_json: AsJson = False) -> None:
    """All dead letters of all services.

    Example: driftwheel dlq list
    """
    answers = asyncio.run(everywhere("/dead-letters"))
    silent = [service for service, answer in answers.items() if answer is None]
    found = [
        {"service": service, **letter}
        for service, answer in answers.items()
        if answer
        for letter in answer["dead_letters"]
    ]
    for service in silent:
        warn(f"{service} does not answer: its dead letters are not shown.", LOOK)
    if as_json:
        show_json(found)
    else:
        _letters(found)
    if silent:
        raise typer.Exit(int(Exit.UNAVAILABLE))


def _letters(found: list[Json]) -> None:
    table(
        ("service", "event", "topic", "tries", "died", "why"),
        [
            (d["service"], d["event_id"], d["topic"], d["attempts"], when(d["handled_at"]), d["error"])
            for d in found
        ],
        "Nothing is dead.",
    )


@dlq.command()
def redrive(service: str, event: str, as_json: AsJson = False) -> None:
    """Handle a dead letter again, once, under its own id.

    Example: driftwheel dlq redrive registry 0193…
    """
    if service not in SERVICES:
        fail(Exit.USAGE, f"There is no service {service}.", f"One of: {', '.join(SERVICES)}.")
    found = post(f"/api/{service}/dead-letters/{part(event)}/redrive")
    if as_json:
        show_json(found)
    else:
        out.print(f"[green]✓[/] sent to {found['topic']} again")
        err.print(f"[dim]follow it: driftwheel trace {event}[/]")
