"""Lines of a file, none of them longer than a limit in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from services.data.rows import Reason


class Broken(NamedTuple):
    """A row that cannot be read."""

    reason: Reason
    excerpt: bytes


class Unreadable(ValueError):
    """The file is not what it claims to be. `next_step` tells its owner what to do."""

    def __init__(self, detail: str, next_step: str) -> None:
        super().__init__(detail)
        self.next_step = next_step


def lines(path: Path, limit: int) -> Iterator[bytes | Broken]:
    """Lines without their end (LF or CRLF) and without a byte order mark; too long ones as Broken.

    Memory: at most `limit` bytes, whatever the file holds.
    """
    with path.open("rb", buffering=1 << 20) as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        while line := file.readline(limit + 1):
            if len(line) > limit and not line.endswith(b"\n"):
                head = line[:200]
                while line and not line.endswith(b"\n"):
                    line = file.readline(limit)
                yield Broken("row_too_large", head)
            else:
                yield line.rstrip(b"\r\n")
