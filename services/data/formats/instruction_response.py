"""Two columns: `instruction`, `response`."""

from services.data.rows import Record, Turn, text_of


def to_messages(record: Record) -> list[Turn]:
    return [Turn("user", text_of(record, "instruction")), Turn("assistant", text_of(record, "response"))]
