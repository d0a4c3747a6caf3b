"""`driftwheel trace | events tail | dlq …`: follow what happened, and mend it."""

import asyncio
import json
from typing import Annotated, Any

import httpx2
import typer

from services.console.door import SERVICES, Exit, client, err, fail, get, out, post, show_json, stack_state
from services.console.output import AsJson, table, when
from shared.envelope import repair_headers
from shared.text import Json
from shared.trace import merge, render

events = typer.Typer(no_args_is_help=True, help="Events as they pass.")
dlq = typer.Typer(no_args_is_help=True, help="Dead letters: what died, why, and again.")


def trace(
    any_id: Annotated[str, typer.Argument(help="Of anything: event, run, dataset, version, answer.")],
    as_json: AsJson = False,
) -> None:
    """The whole story an id belongs to: what caused it, what it caused, where it waits.

    Example: driftwheel trace support:2
    """
    parts, silent = asyncio.run(collect(any_id))
    roots = merge(parts)
    if as_json:
        show_json({"steps": [step.to_json() for step in roots], "unreachable": silent})
    else:
        out.print(render(roots, silent))
    if len(silent) == len(SERVICES):
        fail(Exit.UNAVAILABLE, "No service answered.", "Look: driftwheel status.")
    if not roots:
        raise typer.Exit(int(Exit.NOT_FOUND))


async def collect(any_id: str) -> tuple[list[Json], list[str]]:
    """What each service knows of the stories with this id, and which services did not answer."""
    with client() as plain:
        base, headers = plain.base_url, dict(plain.headers)
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=10) as http:

        async def ask(service: str, path: str, params: Any = None) -> Json | None:
            try:
                response = await http.get(f"/api/{service}{path}", params=params)
            except httpx2.TransportError:
                return None
            return response.json() if response.is_success else None

        found = await asyncio.gather(*(ask(service, f"/trace/{any_id}") for service in SERVICES))
        ids = sorted({one for answer in found if answer for one in answer["correlations"]})[:50]
        told = await asyncio.gather(*(ask(s, "/stories", [("id", one) for one in ids]) for s in SERVICES))
    parts = [part for part in told if part]
    return parts, [service for service, part in zip(SERVICES, told, strict=True) if part is None]


@events.command()
def tail(
    topic: Annotated[list[str] | None, typer.Option(help="Repeatable; else all.")] = None,
    beginning: Annotated[bool, typer.Option(help="From the first event that is still kept.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """Events as they pass, one a line. Reads without a group, so it moves nobody's offsets.

    Example: driftwheel events tail --topic model.promoted --beginning
    """
    from shared.events import EVENTS

    bootstrap = stack_state().get("urls", {}).get("kafka")
    if not bootstrap:
        fail(Exit.UNAVAILABLE, "No Kafka is known here.", "Start one: driftwheel up.")
    try:
        asyncio.run(_tail(str(bootstrap), topic or [event.topic for event in EVENTS], beginning, as_json))
    except KeyboardInterrupt:
        raise typer.Exit(int(Exit.INTERRUPTED)) from None


async def _tail(bootstrap: str, topics: list[str], beginning: bool, as_json: bool) -> None:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import KafkaError

    reset = "earliest" if beginning else "latest"
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap, group_id=None, auto_offset_reset=reset)
    try:
        await consumer.start()
    except KafkaError as error:
        fail(Exit.UNAVAILABLE, f"Kafka at {bootstrap} does not answer: {error}.", "Look: driftwheel status.")
    try:
        async for record in consumer:
            _print(record, as_json)
    finally:
        await consumer.stop()


def _print(record: Any, as_json: bool) -> None:
    headers = repair_headers(record.headers)
    body = (record.value or b"").decode("utf-8", "backslashreplace")
    if as_json:
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        typer.echo(json.dumps({**place, "headers": headers, "body": body}))
        return
    out.print(
        f"[dim]{headers.get('ce_time', '')[11:23]:<12}[/] [cyan]{record.topic:<18}[/] "
        f"[dim]p{record.partition}@{record.offset}[/] [green]{headers.get('ce_source', '?')}[/]",
        end=" ",
    )
    out.print(body, markup=False, no_wrap=True, overflow="ellipsis")


@dlq.command("list")
def list_(as_json: AsJson = False) -> None:
    """All dead letters of all services.

    Example: driftwheel dlq list
    """
    found = [
        {"service": service, **letter}
        for service in SERVICES
        for letter in get(f"/api/{service}/dead-letters")["dead_letters"]
    ]
    if as_json:
        show_json(found)
        return
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
    found = post(f"/api/{service}/dead-letters/{event}/redrive")
    if as_json:
        show_json(found)
    else:
        out.print(f"[green]✓[/] sent to {found['topic']} again")
        err.print(f"[dim]follow it: driftwheel trace {event}[/]")
