"""Alpaca: `instruction`, an optional `input` it applies to, `output`."""

from services.data.rows import Record, Turn, text_of


def to_messages(record: Record) -> list[Turn]:
    instruction = text_of(record, "instruction")
    context = text_of(record, "input") if record.get("input") is not None else ""
    prompt = f"{instruction}\n\n{context}" if context.strip() else instruction
    return [Turn("user", prompt), Turn("assistant", text_of(record, "output"))]
