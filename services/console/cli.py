"""`driftwheel <noun> <verb>`: data on stdout, progress on stderr, an exit code that scripts can branch on.

Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 unavailable, 6 a gate said no, 130 interrupted.
"""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from services.console.commands import (
    access,
    answers,
    consumers,
    datasets,
    dlq,
    drifts,
    events,
    models,
    outbox,
    rollouts,
    runs,
    stack,
    subjects,
    trace,
)
from services.console.door import Exit, warn

app = typer.Typer(
    name="driftwheel",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "This machine": (stack.up, stack.down, stack.status, stack.doctor),
    "Access and policies": (access.apply,),
    "Answers": (answers.chat, answers.feedback),
    "On call": (trace.trace,),
}


@app.callback()
def door(
    url: Annotated[
        str | None, typer.Option(envvar="DRIFTWHEEL_URL", help="The front door; else the local stack's.")
    ] = None,
) -> None:
    """Keeps a fine-tuned language model good after the day it shipped."""
    if url:
        os.environ["DRIFTWHEEL_URL"] = url


for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(access.tokens, name="token", rich_help_panel="Access and policies")
app.command("open", rich_help_panel="Access and policies")(access.open_)
app.add_typer(events.events, name="events", rich_help_panel="On call")
app.add_typer(consumers.app, name="consumers", rich_help_panel="On call")
app.add_typer(dlq.app, name="dlq", rich_help_panel="On call")
app.add_typer(subjects.app, name="subjects", rich_help_panel="On call")
app.add_typer(outbox.app, name="outbox", rich_help_panel="On call")
app.add_typer(datasets.app, name="datasets", rich_help_panel="The loop")
app.add_typer(runs.app, name="runs", rich_help_panel="The loop")
app.add_typer(models.app, name="models", rich_help_panel="The loop")
app.add_typer(rollouts.app, name="rollouts", rich_help_panel="The loop")
app.add_typer(drifts.app, name="drifts", rich_help_panel="The loop")


def main() -> None:
    """The entry point. What nobody foresaw ends in one line; DRIFTWHEEL_DEBUG=1 shows where it came from."""
    try:
        app()
    except Exception as error:
        if os.environ.get("DRIFTWHEEL_DEBUG"):
            raise
        warn(
            f"{type(error).__name__}: {error}", "This is a bug. DRIFTWHEEL_DEBUG=1 shows where it came from."
        )
        sys.exit(Exit.FAILED)


if __name__ == "__main__":
    main()
