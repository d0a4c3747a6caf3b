"""Pages of a list that is ordered by time: where the next one begins, as text that a caller hands back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.contracts.errors import Invalid

_SEPARATOR = "~"
_LONGEST = 1_200


@dataclass(frozen=True, slots=True)
class Cursor:
    """After this row: its time, and its id for rows of the same time. It stays true whatever becomes of the row."""

    at: datetime
    id: str

    def __str__(self) -> str:
        return f"{self.at.isoformat()}{_SEPARATOR}{self.id}"

    @classmethod
    def of(cls, text: str | None) -> "Cursor | None":
        """Raises Invalid for what no page handed out."""
        if not text:
            return None
        time, mark, row_id = text.partition(_SEPARATOR)
        try:
            at = datetime.fromisoformat(time)
        except ValueError:
            at = None
        if at is None or at.tzinfo is None or not mark or len(text) > _LONGEST or "\x00" in text:
            raise Invalid("`after` is not the end of a page.", "Use `next` of the page before.")
        return cls(at, row_id)


def page(rows: Sequence[dict[str, Any]], limit: int, time: str) -> tuple[list[dict[str, Any]], str | None]:
    """The rows of a page and where the next one begins, from up to `limit` + 1 rows. `time` names their column."""
    shown = list(rows[:limit])
    more = len(rows) > limit
    return shown, str(Cursor(shown[-1][time], shown[-1]["event_id"])) if more else None
