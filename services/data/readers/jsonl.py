"""JSON lines: one object per line, UTF-8. Blank lines are no rows."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from services.data.readers.lines import Broken, lines
from services.data.rows import Record


def read(path: Path, limit: int) -> Iterator[tuple[int, Record | Broken]]:
    decode = msgspec.json.Decoder(Record).decode
    for number, line in enumerate(lines(path, limit), 1):
        if isinstance(line, Broken):
            yield number, line
        elif line and not line.isspace():
            try:
                yield number, decode(line)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                yield number, Broken("invalid_row", line[:200])
