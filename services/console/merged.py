"""One list, newest first, of what all services answered, page by page."""

from collections.abc import Mapping
from datetime import UTC, datetime

from services.console.formats import parsed
from services.console.upstream import Answer
from shared.contracts.document import Json

_NEVER = datetime.min.replace(tzinfo=UTC)


def newest(answers: Mapping[str, Answer], name: str, time: str, limit: int) -> tuple[list[Json], str]:
    """The first `limit` rows of all, each with its `service`, and where the next page begins ("" if nothing follows).

    Services order their rows by `time` and id, and so continue after the last row shown, whose ever it is.

    Args:
        name: of the list in an answer.
    """
    rows = [
        {"service": who, **row} for who, answer in answers.items() if answer.good for row in answer.data[name]
    ]
    rows.sort(key=lambda row: parsed(row[time]) or _NEVER, reverse=True)
    more = len(rows) > limit or any(answer.good and answer.data.get("next") for answer in answers.values())
    shown = rows[:limit]
    return shown, f"{shown[-1][time]}~{shown[-1]['event_id']}" if more and shown else ""


def silent(answers: Mapping[str, Answer]) -> list[Answer]:
    """Those whose part of the list is missing, each with what to say about it."""
    return [answer for answer in answers.values() if not answer.good]
