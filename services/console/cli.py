"""`driftwheel <noun> <verb>`: data on stdout, progress on stderr, an exit code that scripts can branch on."""

import os
import sys
from typing import Annotated

import typer

from services.console.catalogue import Catalogue

EPILOG = """\b
Exit codes:
  0  it is done            4  it conflicts with what is there now
  1  it failed             5  something does not answer; try again
  2  wrongly called        6  a gate said no
  3  there is no such      130 interrupted, 141 the pipe was closed

Every command has --json (UTC, keys in order) and -h. Times for people are local.
"""
app = typer.Typer(
    name="driftwheel",
    cls=Catalogue,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from services.console.terminal import show_line

        show_line(f"driftwheel {version('driftwheel')}")
        raise typer.Exit


@app.callback()
def door(
    url: Annotated[
        str | None, typer.Option(envvar="DRIFTWHEEL_URL", help="The front door; else the local stack's.")
    ] = None,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which release this is.")
    ] = False,
) -> None:
    """Keeps a fine-tuned language model good after the day it shipped."""
    if url:
        os.environ["DRIFTWHEEL_URL"] = url


def main() -> None:
    """The entry point. What nobody foresaw ends in one line; DRIFTWHEEL_DEBUG=1 shows where it came from."""
    try:
        app()
    except Exception as error:
        if os.environ.get("DRIFTWHEEL_DEBUG"):
            raise
        from services.console.door import Exit, warn

        warn(
            f"{type(error).__name__}: {error}", "This is a bug. DRIFTWHEEL_DEBUG=1 shows where it came from."
        )
        sys.exit(Exit.FAILED)


if __name__ == "__main__":
    main()
