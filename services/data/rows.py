"""What flows through the pipeline: conversations, where they came from, and why some of them are dropped."""

import unicodedata
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import xxhash

Record = dict[str, Any]
"""One decoded row of a file, before its format is understood."""

Reason = Literal[
    "invalid_row",
    "row_too_large",
    "unknown_shape",
    "bad_text",
    "wrong_role",
    "empty",
    "control_token",
    "too_short",
    "too_long",
    "too_many_tokens",
    "duplicate",
    "conflicting_answer",
    "own_answer_held_out",
    "own_answer_cap",
    "author_cap",
    "text_missing",
    "erased",
]
"""Why a row is dropped; exactly one per dropped row. The first rule that refuses it names it."""

Source = Literal["upload", "feedback", "prior"]
Label = Literal["human", "model"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_BUCKETS: tuple[Split, ...] = (*("train",) * 8, "validation", "test")


class Unfit(ValueError):
    """The row does not have the shape of its format."""


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation, as TRL's conversational format has it."""

    role: str
    content: str


class Row(msgspec.Struct, frozen=True):
    """One example of a dataset; these fields are one line of `train.jsonl`.

    Attributes:
        origin: SHA-256 of the uploaded file, id of the answer, or digest of the parent dataset.
        label: whose answer the last message is: a human's, or our own model's.
    """

    messages: list[Turn]
    source: Source
    origin: str
    label: Label = "human"


class Placed(NamedTuple):
    """A row and where it stands in what was read, for reports."""

    row: Row
    place: str


class Kept(NamedTuple):
    """A row that survived, and the split it belongs to for life."""

    row: Row
    split: Split
    place: str


class Reject(NamedTuple):
    reason: Reason
    place: str
    excerpt: str


class Marks(NamedTuple):
    """128-bit hashes of the normalised prompt and answer, and the split of the row."""

    prompt: bytes
    answer: bytes
    split: Split


def text_of(record: Record, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise Unfit(f"`{key}` is not text")
    return value


def excerpt(value: object, limit: int = 200) -> str:
    """A short, storable view of a row for people."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return text[:limit].encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def normalise(text: str) -> str:
    """NFKC, case folded, white space collapsed: what must count as the same text."""
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def marks(messages: list[Turn]) -> Marks:
    """Identify a conversation. Storable text only.

    The split depends on the normalised prompt alone, so a row keeps it for life. System messages are left out of that:
    the same question under another system prompt must not end up on the other side. Unit separators cannot occur in
    normalised text (they are white space), so the parts stay unambiguous.
    """
    parts = [(turn.role, normalise(turn.content)) for turn in messages]
    asked = "\x1e".join(f"{role}\x1f{content}" for role, content in parts[:-1]).encode()
    key = asked
    if parts[0][0] == "system":
        key = "\x1e".join(f"{role}\x1f{content}" for role, content in parts[1:-1]).encode()
    bucket = xxhash.xxh3_64_intdigest(key) % len(_BUCKETS)
    return Marks(
        xxhash.xxh3_128_digest(asked), xxhash.xxh3_128_digest(parts[-1][1].encode()), _BUCKETS[bucket]
    )
