"""Shapes of rows people have, each turned into a conversation. A new shape is one file and one line here.

`keys` are the columns a row must have; detection takes the first format that fits, so the more specific come first.
"""

from collections.abc import Callable
from typing import NamedTuple

from services.data.formats import alpaca, instruction_response, messages, prompt_completion, sharegpt
from services.data.rows import Record, Turn


class Format(NamedTuple):
    keys: frozenset[str]
    to_messages: Callable[[Record], list[Turn]]
    """Raises Unfit when the row has other types than the format."""


FORMATS: dict[str, Format] = {
    "messages": Format(frozenset({"messages"}), messages.to_messages),
    "sharegpt": Format(frozenset({"conversations"}), sharegpt.to_messages),
    "alpaca": Format(frozenset({"instruction", "output"}), alpaca.to_messages),
    "instruction-response": Format(frozenset({"instruction", "response"}), instruction_response.to_messages),
    "prompt-completion": Format(frozenset({"prompt", "completion"}), prompt_completion.to_messages),
}


def detect(record: Record) -> str | None:
    """The name of the format this row has, or None."""
    return next((name for name, known in FORMATS.items() if known.keys <= record.keys()), None)
