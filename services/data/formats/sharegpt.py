"""ShareGPT: `conversations`, a list of `{"from", "value"}` with `human` and `gpt`."""

from services.data.formats.messages import list_of
from services.data.rows import Record, Turn, text_of

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def to_messages(record: Record) -> list[Turn]:
    turns = [(text_of(item, "from"), text_of(item, "value")) for item in list_of(record, "conversations")]
    return [Turn(ROLES.get(speaker, speaker), value) for speaker, value in turns]
