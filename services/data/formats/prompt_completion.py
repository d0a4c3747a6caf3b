"""Two columns: `prompt`, `completion`."""

from services.data.rows import Record, Turn, text_of


def to_messages(record: Record) -> list[Turn]:
    return [Turn("user", text_of(record, "prompt")), Turn("assistant", text_of(record, "completion"))]
