"""The `driftwheel` commands that a text names, and what is wrong with one."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import typer

from services.console.cli import app


def commands_in(text: str) -> Iterator[str]:
    """Commands in a Markdown page: inline, and at the beginning of a line of a block, after variables and without comments."""
    told = r"`driftwheel ([^`]+)`|^\s*(?:[A-Z_]+=\S+ )*driftwheel (.*?)(?:\s+#.*)?$"
    for inline, block in re.findall(told, text, re.MULTILINE):
        yield inline or block


@cache
def _root() -> Any:
    return typer.main.get_command(app)


def fault(command: str) -> str | None:
    """Why `driftwheel <command>` is not one, by its words and options; None if it is."""
    words = shlex.split(command)
    found = _root()
    said = ["driftwheel"]
    while words and hasattr(found, "list_commands"):
        context = typer.Context(found)
        if words[0] not in found.list_commands(context):
            if words[0].startswith("-"):
                break
            return f"there is no `{' '.join((*said, words[0]))}`"
        said.append(words[0])
        found = found.get_command(context, words.pop(0))
    options = {
        name
        for parameter in found.params
        for name in (*parameter.opts, *parameter.secondary_opts, "-h", "--help")
    }
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in options]
    return f"`{' '.join(said)}` has no {unknown[0]}" if unknown else None
