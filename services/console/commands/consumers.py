"""`driftwheel consumers list | resume`: who reads which topic, what stands still and why, and on it goes."""

from typing import Annotated, Any

import typer

from services.console.door import LOOK, Exit, everywhere, fail, part, post, warn
from services.console.layout import Column, prose
from services.console.local_time import when
from services.console.output import AsJson, table
from services.console.terminal import out, show_json
from shared.contracts.document import Json
from shared.contracts.topology import SERVICES

app = typer.Typer(no_args_is_help=True, help="Consumers: who reads which topic, and what stands still.")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every topic's consumer of every service, with what it waits for or why it stopped.

    Example: driftwheel consumers list
    """
    answers = everywhere("/consumers")
    found = [
        {"service": service, **consumer}
        for service, answer in answers.items()
        if answer
        for consumer in answer["consumers"]
    ]
    silent = [service for service, answer in answers.items() if answer is None]
    for service in silent:
        warn(f"{service} does not answer: its consumers are not shown.", LOOK)
    if as_json:
        show_json(found)
    else:
        table(
            ("service", "topic", "state", Column("since", 1), prose("why", 2)),
            [_row(c) for c in found],
            "Nobody consumes anything. Start the services: driftwheel up",
        )
        for consumer in found:
            for one in consumer["quarantined"]:
                out.print(
                    f"{consumer['service']} takes no {consumer['topic']} from {one['source']}: {one['reason']}",
                    markup=False,
                )
    if silent:
        raise typer.Exit(int(Exit.UNAVAILABLE))


def _row(consumer: Json) -> tuple[Any, ...]:
    return (
        consumer["service"],
        consumer["topic"],
        consumer["state"],
        when(consumer["since"]),
        consumer["detail"],
    )


@app.command()
def resume(
    service: str,
    topic: str,
    source: Annotated[str | None, typer.Option(help="Lift the quarantine of this source instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let a consumer go on that stopped at its limit, without a restart. Mend the cause first, redrive afterwards.

    Of several replicas, the one that answers: repeat it while the list shows one that has stopped.

    Example: driftwheel consumers resume registry model.trained
    """
    now = post(f"/api/{_known(service)}/consumers/{part(topic)}/resume", {"source": source})
    if as_json:
        show_json(now)
    else:
        out.print(
            f"{service} reads {topic} again{f' from {source}' if source else ''}: {now['state']}",
            markup=False,
        )


def _known(service: str) -> str:
    if service not in SERVICES:
        fail(Exit.USAGE, f"There is no service {service}.", f"One of: {', '.join(SERVICES)}.")
    return service
