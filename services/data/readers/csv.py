"""CSV or TSV with a header line, UTF-8; quoted cells may hold line ends."""

import csv
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from services.data.readers.lines import Broken, Unreadable, lines
from services.data.rows import Record


def read(path: Path, limit: int) -> Iterator[tuple[int, Record | Broken]]:
    """Rows with another number of cells than the header are Broken. A cell holds at most 128 KiB (Python's limit)."""
    refused: list[Broken] = []
    rows = csv.reader(_text(path, limit, refused), delimiter=_delimiter(path))
    header = next(rows, [])
    if len(header) < 2 or len(set(header)) != len(header):
        raise Unreadable(
            "its first line names no columns", "Start it with a header line such as prompt,completion."
        )
    numbers = count(1)
    while True:
        try:
            cells = next(rows, None)
        except csv.Error:
            yield next(numbers), Broken("row_too_large", b"")
            continue
        while refused:
            yield next(numbers), refused.pop(0)
        if cells is None:
            return
        if len(cells) == len(header):
            yield next(numbers), dict(zip(header, cells, strict=True))
        elif cells:
            yield next(numbers), Broken("invalid_row", repr(cells)[:200].encode())


def _text(path: Path, limit: int, refused: list[Broken]) -> Iterator[str]:
    """Decoded lines; those that cannot be decoded or held go to `refused`."""
    for line in lines(path, limit):
        if isinstance(line, Broken):
            refused.append(line)
            continue
        try:
            yield line.decode("utf-8") + "\n"
        except UnicodeDecodeError:
            refused.append(Broken("invalid_row", line[:200]))


def _delimiter(path: Path) -> str:
    with path.open("rb") as file:
        header = file.readline(65_536)
    return max(",", "\t", ";", key=lambda mark: header.count(mark.encode()))
