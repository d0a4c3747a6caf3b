"""`driftwheel dlq list | show | redrive`: what died, why, and again."""

import json
from typing import Annotated, Any

import typer

from services.console.door import LOOK, Exit, everywhere, fail, get, part, post, warn
from services.console.formats import duration
from services.console.layout import Column, prose
from services.console.local_time import at, when
from services.console.output import AsJson, confirmed, facts, table
from services.console.terminal import err, out, show_json
from shared.contracts.document import Json
from shared.contracts.topology import SERVICES

app = typer.Typer(no_args_is_help=True, help="Dead letters: what died, why, and again.")
Topic = Annotated[str | None, typer.Option(help="Only of this topic.")]
Reason = Annotated[str | None, typer.Option(help="Only with this in the reason, in either case.")]
_SHOWN_CHARACTERS = 4_000


@app.command("list")
def list_(
    service: Annotated[str | None, typer.Option(help="Of this service; else of all.")] = None,
    topic: Topic = None,
    error: Reason = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Of each service, the newest.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Dead letters, newest first.

    Example: driftwheel dlq list --topic dataset.ready --error ValueError
    """
    filters = {
        name: value
        for name, value in (("topic", topic), ("error", error), ("limit", limit))
        if value is not None
    }
    if service:
        answers: dict[str, Json | None] = {service: get(f"/api/{_known(service)}/dead-letters", **filters)}
    else:
        answers = everywhere("/dead-letters", filters)
    silent = [name for name, answer in answers.items() if answer is None]
    found = [
        {"service": name, **letter}
        for name, answer in answers.items()
        if answer
        for letter in answer["dead_letters"]
    ]
    found.sort(key=lambda letter: str(letter["handled_at"]), reverse=True)
    for name in silent:
        warn(f"{name} does not answer: its dead letters are not shown.", LOOK)
    if as_json:
        show_json(found)
    else:
        _letters(found)
        if any(answer and answer.get("next") for answer in answers.values()):
            err.print(f"[dim]there are more than {limit}; narrow it, or raise --limit[/]")
    if silent:
        raise typer.Exit(int(Exit.UNAVAILABLE))


def _letters(found: list[Json]) -> None:
    table(
        ("service", "event", "topic", Column("tries", 2), Column("died", 1), prose("why")),
        [
            (d["service"], d["event_id"], d["topic"], d["attempts"], when(d["handled_at"]), _why(d))
            for d in found
        ],
        "Nothing is dead. What stands still shows: driftwheel consumers list",
    )


def _why(letter: Json) -> str:
    """Its error; of one that was redriven and still waits, that as well."""
    waits = "redriven, not handled yet; before: " if letter.get("state") == "redriven" else ""
    return waits + str(letter["error"])


@app.command()
def show(service: str, event: str, as_json: AsJson = False) -> None:
    """One dead letter whole: why, from where, its headers and its payload.

    Example: driftwheel dlq show registry 0193…
    """
    letter = get(f"/api/{_known(service)}/dead-letters/{part(event)}")
    if as_json:
        show_json(_parsed(letter))
        return
    place = f"{letter['topic']}/{letter['partition']}/{letter['offset']}"
    facts(
        [
            ("event", letter["event_id"]),
            ("state", letter["state"]),
            ("why", letter["error"]),
            ("tries", letter["attempts"]),
            ("was at", place),
            ("type", letter["type"]),
            ("source", letter["source"]),
            ("story", letter["correlationid"]),
            ("caused by", letter["causationid"]),
            ("key", (letter["key"] or {}).get("text")),
            ("in Kafka", when(letter["recorded_at"])),
            ("died", when(letter["handled_at"])),
        ]
    )
    for name, value in letter["headers"] or ():
        err.print(f"{name}: {_header(value)}", style="dim", markup=False)
    _payload(letter)
    if letter["state"] == "dead":
        err.print(f"again: driftwheel dlq redrive {service} {event}", style="dim", markup=False)


def _parsed(letter: Json) -> Json:
    """The letter with the document that its payload holds in `json`, in the place of its `text`."""
    payload = letter["payload"]
    if not payload or payload["cut"]:
        return letter
    try:
        document = json.loads(payload["text"])
    except (ValueError, RecursionError):
        return letter
    rest = {name: value for name, value in payload.items() if name != "text"}
    return {**letter, "payload": {**rest, "json": document}}


def _header(value: Any) -> str:
    return f"base64 {value['base64']}" if isinstance(value, dict) else str(value or "")


def _payload(letter: Json) -> None:
    payload = letter["payload"]
    if payload is None:
        needs = letter["payload_needs"]
        why = (
            f"the payload needs a token with the scope {needs}"
            if needs
            else "the payload was handled and is not kept"
        )
        err.print(why, style="dim", markup=False)
        return
    text = payload["text"][:_SHOWN_CHARACTERS]
    out.print(text, markup=False, soft_wrap=True)
    if payload["cut"] or len(text) < len(payload["text"]):
        err.print(
            f"cut; the whole has {payload['bytes']:,} bytes: --json shows more", style="dim", markup=False
        )


@app.command()
def redrive(
    service: Annotated[str | None, typer.Argument(help="Whose dead letter.")] = None,
    event: Annotated[str | None, typer.Argument(help="Its id.")] = None,
    of: Annotated[str | None, typer.Option("--service", help="Many: of this service.")] = None,
    topic: Topic = None,
    error: Reason = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="At most so many, the oldest first.")
    ] = 10_000,
    rate: Annotated[float, typer.Option(min=0.1, max=1_000, help="So many a second.")] = 50,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would send.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Handle dead letters again, each once, under its own id: one by its id, or many of a service.

    Example: driftwheel dlq redrive --service registry --error ValueError --dry-run
    """
    if event and service and not of:
        _redrive_one(_known(service), event, as_json)
    elif of and not service:
        asked = {"topic": topic, "error": error, "limit": limit, "per_second": rate}
        _redrive_many(_known(of), {k: v for k, v in asked.items() if v is not None}, dry_run, yes, as_json)
    else:
        fail(Exit.USAGE, "Which ones?", "One: SERVICE EVENT. Many: --service SERVICE [--topic] [--error].")


def _redrive_one(service: str, event: str, as_json: bool) -> None:
    found = post(f"/api/{service}/dead-letters/{part(event)}/redrive")
    if as_json:
        show_json(found)
    else:
        out.print(f"[green]✓[/] sent to {found['topic']} again")
        err.print(f"follow it: driftwheel trace {event}", style="dim", markup=False)


def _redrive_many(service: str, asked: Json, dry_run: bool, yes: bool, as_json: bool) -> None:
    path = f"/api/{service}/dead-letters/redrive"
    dry = post(path, {**asked, "dry_run": True})
    if not as_json:
        _preview(dry)
    if dry_run or not dry["messages"]:
        if as_json:
            show_json(dry)
        return
    if dry["messages"] > 1:
        confirmed(f"Send {dry['messages']:,} dead letters of {service} again?", yes)
    done = post(path, asked)
    if as_json:
        show_json(done)
        return
    out.print(f"[green]✓[/] {done['messages']:,} go again, {done['per_second']:g} a second")
    if done["until"]:
        err.print(
            f"the last one at {at(done['until'])}; look: driftwheel dlq list --service {service}",
            style="dim",
        )


def _preview(dry: Json) -> None:
    out.print(f"{dry['matching']:,} match, {dry['messages']:,} would go again, in {duration(dry['seconds'])}")
    if dry["messages"]:
        table(("topic", "messages"), [(g["topic"], g["messages"]) for g in dry["by_topic"]], "")
        table((prose("why"), "messages"), [(g["error"], g["messages"]) for g in dry["by_error"]], "")
        if dry["other_errors"]:
            out.print(f"{dry['other_errors']:,} more for other reasons")


def _known(service: str) -> str:
    if service not in SERVICES:
        fail(Exit.USAGE, f"There is no service {service}.", f"One of: {', '.join(SERVICES)}.")
    return service
