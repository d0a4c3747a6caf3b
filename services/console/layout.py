"""Rows as lines of text: as wide as they are, or within a terminal. Pure.

What is copied or compared (an id, a number, a time) stays whole on one line. Where room is short, times lose their
year and seconds first, then columns go that say least, and at last each row becomes a card of its own; only prose wraps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from services.console.formats import number
from services.console.terminal import harmless

_GAP = 2
_NARROWEST_PROSE = 24
_MARKS = "✓✗!…↻· "
"""What may stand before a state."""
_COLOURS = {
    "ready": "green",
    "succeeded": "green",
    "pass": "green",
    "approved": "green",
    "completed": "green",
    "failed": "red",
    "fail": "red",
    "rejected": "red",
    "rolled_back": "red",
    "cancelled": "yellow",
    "insufficient": "yellow",
    "external": "green",
    "running": "green",
    "degraded": "yellow",
    "unready": "yellow",
    "restarting": "yellow",
    "stopped": "red",
    "dead": "red",
}


class Moment(NamedTuple):
    """A local time with its zone, and the same where room is short."""

    whole: str
    brief: str


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; with `spare`, the column may go, the highest first. Prose wraps between words."""

    name: str
    spare: int = 0
    prose: bool = False


def prose(name: str, spare: int = 0) -> Column:
    return Column(name, spare, prose=True)


class Table(NamedTuple):
    """Lines without their ends, and the headings of what had no room."""

    lines: list[Text]
    left_out: list[str]


def told(value: Any, brief: bool = False) -> str:
    """A value in one line; a dash for none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, Moment):
        return value.brief if brief else value.whole
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value, 4)
    return harmless(" ".join(str(value).split()))


def table(columns: Sequence[str | Column], rows: Sequence[Sequence[Any]], width: int | None) -> Table:
    """The rows under their headings; within `width` cells, or as wide as they are (None)."""
    heads = [Column(one) if isinstance(one, str) else one for one in columns]
    whole = _grid(heads, rows, brief=False)
    if width is None or whole.least() <= width:
        return Table(whole.lines(width), [])
    grid, left_out = _grid(heads, rows, brief=True), []
    while grid.least() > width and (spare := max(grid.heads, key=lambda head: head.spare)).spare:
        left_out.append(spare.name)
        grid = grid.without(spare)
    if grid.least() <= width:
        return Table(grid.lines(width), left_out[::-1])
    return Table(_cards(whole, width), [])


def pairs(facts: Sequence[tuple[str, Any]], width: int | None) -> list[Text]:
    """Names and values, one a line; what is longer wraps under itself, or stands whole under its name."""
    indent = max((cell_len(name) for name, _ in facts), default=0) + _GAP
    lines = []
    for name, value in facts:
        text, beside = told(value), indent
        if width is not None and indent + max(map(cell_len, text.split())) > width:
            lines.append(Text(name, "dim"))
            name, beside = "", _GAP  # noqa: PLW2901
        for part in _wrapped(text, width and width - beside):
            lines.append(Text(_padded(name, beside), "dim").append_text(_coloured(part)))
            name = ""  # noqa: PLW2901
    return lines


class _Grid(NamedTuple):
    heads: list[Column]
    cells: list[list[str]]
    right: list[bool]

    def widths(self) -> list[int]:
        columns = zip(*self.cells, strict=True) if self.cells else [()] * len(self.heads)
        return [
            max(map(cell_len, (head.name, *column))) for head, column in zip(self.heads, columns, strict=True)
        ]

    def narrowest(self) -> list[int]:
        """Widths if prose wraps as far as it may."""
        widths = self.widths()
        for place, head in enumerate(self.heads):
            if head.prose:
                words = [cell_len(word) for row in self.cells for word in row[place].split()]
                widths[place] = min(widths[place], max([_NARROWEST_PROSE, *words]))
        return widths

    def least(self) -> int:
        return sum(self.narrowest()) + _GAP * (len(self.heads) - 1)

    def without(self, left_out: Column) -> "_Grid":
        keep = [place for place, head in enumerate(self.heads) if head is not left_out]
        return _Grid(
            [self.heads[place] for place in keep],
            [[row[place] for place in keep] for row in self.cells],
            [self.right[place] for place in keep],
        )

    def lines(self, width: int | None) -> list[Text]:
        widths = self.widths()
        if width is not None:
            widths = self._squeezed(widths, sum(widths) + _GAP * (len(widths) - 1) - width)
        lines = [self._line([head.name for head in self.heads], widths, heading=True)]
        for row in self.cells:
            parts = [
                _wrapped(cell, size if head.prose and width else None)
                for cell, size, head in zip(row, widths, self.heads, strict=True)
            ]
            lines += [
                self._line([part[place] if place < len(part) else "" for part in parts], widths)
                for place in range(max(map(len, parts)))
            ]
        return lines

    def _squeezed(self, widths: list[int], excess: int) -> list[int]:
        """Prose gives way, what has most to give first."""
        slack = [wide - least for wide, least in zip(widths, self.narrowest(), strict=True)]
        for _ in range(excess):
            slack[slack.index(max(slack))] -= 1
        return [least + left for least, left in zip(self.narrowest(), slack, strict=True)]

    def _line(self, cells: list[str], widths: list[int], heading: bool = False) -> Text:
        line, last = Text(), len(cells) - 1
        for place, (cell, size) in enumerate(zip(cells, widths, strict=True)):
            room = size - cell_len(cell)
            if self.right[place]:
                line.append(" " * room)
            line.append_text(Text(cell, "dim") if heading else _coloured(cell))
            if place < last:
                line.append(" " * ((0 if self.right[place] else room) + _GAP))
        line.rstrip()
        return line


def _grid(heads: list[Column], rows: Sequence[Sequence[Any]], brief: bool) -> _Grid:
    numbers = [
        all(isinstance(row[place], int | float | None) for row in rows) and any(row[place] is not None for row in rows)
        for place in range(len(heads))
    ]  # fmt: skip
    return _Grid(heads, [[told(value, brief) for value in row] for row in rows], numbers)


def _cards(grid: _Grid, width: int) -> list[Text]:
    lines: list[Text] = []
    for row in grid.cells:
        lines += [Text()] if lines else []
        lines += pairs(list(zip([head.name for head in grid.heads], row, strict=True)), width)
    return lines


def _wrapped(text: str, width: int | None) -> list[str]:
    """Broken between words alone: a word that is longer than a line stays whole."""
    if width is None or cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _padded(text: str, size: int) -> str:
    return text + " " * (size - cell_len(text))


def _coloured(text: str) -> Text:
    return Text(text, "dim" if text == "–" else _COLOURS.get(text.lstrip(_MARKS), ""))
