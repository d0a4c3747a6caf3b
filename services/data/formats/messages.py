"""OpenAI's chat format: `messages`, a list of `{"role", "content"}`; in CSV the list is JSON text."""

import msgspec

from services.data.rows import Record, Turn, Unfit, text_of


def to_messages(record: Record) -> list[Turn]:
    return [Turn(text_of(item, "role"), text_of(item, "content")) for item in list_of(record, "messages")]


def list_of(record: Record, key: str) -> list[Record]:
    """The list of objects under `key`, decoded if it is JSON text."""
    value = record.get(key)
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise Unfit(f"`{key}` is not a list of messages") from error
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Unfit(f"`{key}` is not a list of messages")
    return value
