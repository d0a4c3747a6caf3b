"""`driftwheel outbox list | retry`: what Kafka did not take, why, and again."""

from typing import Annotated

import typer

from services.console.door import LOOK, Exit, everywhere, fail, get, post, warn
from services.console.layout import Column, prose
from services.console.local_time import when
from services.console.output import AsJson, table
from services.console.terminal import err, out, show_json
from shared.contracts.document import Json
from shared.contracts.topology import SERVICES

app = typer.Typer(no_args_is_help=True, help="Events that Kafka did not take: which, why, and again.")
Topic = Annotated[str | None, typer.Option(help="Only of this topic.")]


@app.command("list")
def list_(
    service: Annotated[str | None, typer.Option(help="Of this service; else of all.")] = None,
    topic: Topic = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Of each service, the oldest.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Events that were given up (dead), and the first of each topic that Kafka refuses now (blocked).

    Example: driftwheel outbox list --service trainer
    """
    filters = {name: value for name, value in (("topic", topic), ("limit", limit)) if value is not None}
    if service:
        answers: dict[str, Json | None] = {service: get(f"/api/{_known(service)}/outbox", **filters)}
    else:
        answers = everywhere("/outbox", filters)
    found = [
        {"service": name, **row} for name, answer in answers.items() if answer for row in answer["unsent"]
    ]
    silent = [name for name, answer in answers.items() if answer is None]
    for name in silent:
        warn(f"{name} does not answer: its events are not shown.", LOOK)
    if as_json:
        show_json(found)
    else:
        table(
            (
                "service",
                "event",
                "topic",
                "state",
                Column("tries", 2),
                Column("since", 1),
                prose("why"),
            ),
            [
                (
                    row["service"],
                    row["event_id"],
                    row["topic"],
                    row["state"],
                    row["attempts"],
                    when(row["created_at"]),
                    row["error"],
                )
                for row in found
            ],
            "Kafka took everything. What died on its way in shows: driftwheel dlq list",
        )
    if silent:
        raise typer.Exit(int(Exit.UNAVAILABLE))


@app.command()
def retry(
    service: Annotated[str, typer.Argument(help="Whose events.")],
    event: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    topic: Topic = None,
    as_json: AsJson = False,
) -> None:
    """Send again what was given up, once its topic exists or allows it.

    Example: driftwheel outbox retry trainer --topic replies.crm
    """
    asked = {name: value for name, value in (("topic", topic), ("event_id", event)) if value is not None}
    done = post(f"/api/{_known(service)}/outbox/retry", asked)
    if as_json:
        show_json(done)
    elif done["messages"]:
        out.print(f"[green]✓[/] {done['messages']:,} are sent again")
        err.print(f"look: driftwheel outbox list --service {service}", style="dim", markup=False)
    else:
        out.print("Nothing of that was given up.")


def _known(service: str) -> str:
    if service not in SERVICES:
        fail(Exit.USAGE, f"There is no service {service}.", f"One of: {', '.join(SERVICES)}.")
    return service
