"""Held-out rows: which of them are measured, and which training rows the few-shot base is shown."""

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.errors import Invalid
from shared.contracts.text import Text


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


class Row(NamedTuple):
    """A conversation up to the question, and the answer that is expected. `key` is the SHA-256 of both."""

    key: str
    prompt: tuple[Turn, ...]
    answer: str


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)
    role: Text
    content: Text


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)
    messages: list[_Message] = Field(min_length=2)


def read(path: Path) -> Iterator[Row]:
    """Rows of a split file, lazily. Raises Invalid like `parse`, or if the dataset has no such split."""
    if not path.is_file():
        raise Invalid(f"The dataset has no {path.name}.", "Build the dataset again.")
    with path.open("rb") as lines:
        yield from parse(lines)


def parse(lines: Iterable[bytes]) -> Iterator[Row]:
    """Rows of a JSONL split, lazily.

    Raises:
        Invalid: a line is not a conversation that ends with an answer.
    """
    for number, line in enumerate(lines):
        try:
            turns = tuple(Turn(m.role, m.content) for m in _Line.model_validate_json(line).messages)
        except ValueError as error:
            raise Invalid(
                f"Line {number} of the split is not a conversation.", "Build the dataset again."
            ) from error
        if turns[-1].role != "assistant":
            raise Invalid(
                f"Line {number} of the split does not end with an answer.", "Build the dataset again."
            )
        yield make_row(turns[:-1], turns[-1].content)


def make_row(prompt: Sequence[Turn], answer: str) -> Row:
    content = json.dumps([*prompt, answer], ensure_ascii=False, separators=(",", ":"))
    return Row(hashlib.sha256(content.encode()).hexdigest(), tuple(prompt), answer)


def held_out(path: Path, limit: int) -> list[Row]:
    """At most `limit` distinct rows of a split, always the same ones: those with the smallest keys. Bounded memory."""
    unique: dict[str, Row] = {}
    for row in read(path):
        unique[row.key] = row
        if len(unique) >= 2 * limit:
            unique = {kept.key: kept for kept in heapq.nsmallest(limit, unique.values())}
    return heapq.nsmallest(limit, unique.values())


def few_shot(path: Path, count: int) -> list[Row]:
    """`count` single-turn training rows to show, with as many different answers as there are. Bounded memory.

    A function of the split alone, so that the few-shot base is generated once per dataset. Rows with the smallest keys
    win; keys are hashes, so this is a random choice that stays.
    """
    distinct: dict[str, Row] = {}
    smallest: list[Row] = []
    for row in read(path):
        if [turn.role for turn in row.prompt if turn.role != "system"] != ["user"]:
            continue
        distinct[row.answer] = min(row, distinct.get(row.answer, row))
        smallest.append(row)
        if len(distinct) > 4 * count:
            distinct = {kept.answer: kept for kept in heapq.nsmallest(count, distinct.values())}
        if len(smallest) > 4 * count:
            smallest = heapq.nsmallest(2 * count, smallest)
    chosen = heapq.nsmallest(count, distinct.values())
    spare = (row for row in sorted(set(smallest)) if row not in chosen)
    return [*chosen, *spare][:count]


def shown(shots: Sequence[Row]) -> list[Turn]:
    """Few-shot rows as turns of one conversation; their system messages are left out."""
    turns: list[Turn] = []
    for row in shots:
        turns += [turn for turn in row.prompt if turn.role != "system"]
        turns.append(Turn("assistant", row.answer))
    return turns


def digest(rows: Iterable[Row]) -> str:
    """What a set of rows is, in order."""
    return hashlib.sha256("\n".join(row.key for row in rows).encode()).hexdigest()
