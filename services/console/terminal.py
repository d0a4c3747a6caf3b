"""All that commands print: what others wrote sets no title, moves no cursor and turns no line around."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment

_PIPE_WIDTH = 10_000
_BIDI = "\u200e\u200f\u202a-\u202e\u2066-\u2069"
_HARMFUL = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}]")


def harmless(text: str) -> str:
    """The text with each control character as a picture of itself: ␛ for ESC, � for those that have none."""
    return _HARMFUL.sub(lambda found: _picture(ord(found[0])), text)


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else "�"


class Terminal(Console):
    """rich's console; its own colours and cursor movements are no text, so they stay.

    What is piped is as wide as it is, and ends quietly when nobody reads on.
    """

    @property
    def room(self) -> int | None:
        """Cells in a line of the terminal; None where it is no terminal."""
        return self.width if self.is_terminal else None

    @property  # type: ignore[misc]  # nobody sets it
    def size(self) -> ConsoleDimensions:
        found = super().size
        return found if self.is_terminal else found._replace(width=_PIPE_WIDTH)

    def on_broken_pipe(self) -> NoReturn:
        nobody_reads()

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)


out = Terminal(highlight=False)
"""Data for people, on stdout."""
err = Terminal(stderr=True, highlight=False)
"""Progress and errors, on stderr."""


def nobody_reads() -> NoReturn:
    """End as a command does that a closed pipe ends, without the signal: it would end us for a broken socket too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(128 + signal.SIGPIPE)


def show_json(value: Any) -> None:
    """Data for programs: one JSON document on stdout, its keys in the order of the alphabet."""
    _write(json.dumps(value, indent=2, ensure_ascii=False, default=str, sort_keys=True))


def show_json_line(value: Any) -> None:
    """Data for programs that read line by line."""
    _write(json.dumps(value, sort_keys=True))


def show_line(text: str) -> None:
    """One bare line, to be copied or piped."""
    _write(harmless(text))


def _write(text: str) -> None:
    # Inside JSON such a character can be written as an escape: the same document, and harmless to look at.
    try:
        sys.stdout.write(_HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        nobody_reads()
