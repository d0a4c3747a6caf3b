"""Where rows come from: uploaded files, the dataset of the champion, and answers that people judged."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from services.data.domain import PREDICTIONS, Labelled
from services.data.formats import messages
from services.data.pipeline import parse
from services.data.readers import READERS, jsonl, kind_of
from services.data.readers.lines import Broken, Unreadable
from services.data.rows import SPLITS, Label, Placed, Record, Reject, Row, Turn, Unfit, excerpt
from shared.artifacts.corrections import read
from shared.artifacts.objects import ObjectStore
from shared.contracts.errors import Invalid
from shared.contracts.events import CorrectionRef

_LINE_BYTES = 1_048_576


def uploaded(
    path: Path, filename: str, sha256: str, format_name: str | None, max_row_bytes: int
) -> Iterator[Placed | Reject]:
    """Raises Invalid, with what to do, if the file cannot be read."""
    try:
        records = READERS[kind_of(path, filename)](path, max_row_bytes)
        yield from parse(records, sha256, filename, format_name)
    except Unreadable as error:
        raise Invalid(f"The file {filename} cannot be used: {error}.", error.next_step) from error


def prior(folder: Path, digest: str) -> Iterator[Placed | Reject]:
    """All rows of a parent dataset; the hash of the prompt sends each to the split it had."""
    for split in SPLITS:
        for number, record in jsonl.read(folder / f"{split}.jsonl", _LINE_BYTES):
            place = f"{split}.jsonl:{number}"
            if isinstance(record, Broken):
                yield Reject(record.reason, place, excerpt(record.excerpt))
                continue
            label: Label = "model" if record.get("label") == "model" else "human"
            yield _placed(record, Row([], "prior", digest, label), place)


def judged(
    labels: Sequence[Labelled], texts: Mapping[str, Record], corrections: Mapping[str, str]
) -> Iterator[Placed | Reject]:
    """Served prompts with the answer people gave, or approved. `corrections` are texts by feedback id."""
    for label in labels:
        record = texts.get(label.answer_id)
        place = f"answer {label.answer_id}"
        written = label.corrected or corrections.get(label.feedback_id)
        if record is None or (label.by_a_person and written is None):
            yield Reject("text_missing", place, "")
            continue
        asked = record.get("messages")
        answer = {"role": "assistant", "content": written or record.get("answer")}
        whole = {"messages": [*asked, answer] if isinstance(asked, list) else None}
        yield _placed(
            whole, Row([], "feedback", label.answer_id, "human" if label.by_a_person else "model"), place
        )


def refused(labels: Sequence[Labelled]) -> Iterator[Reject]:
    """Judgements left out because one author gave too many of them."""
    return (Reject("author_cap", f"answer {label.answer_id}", "") for label in labels)


async def texts(objects: ObjectStore, labels: Sequence[Labelled]) -> dict[str, Record]:
    """The logged texts, by the answer id that each says of itself; what is missing is left out."""
    wanted: dict[str, set[int]] = {}
    for label in labels:
        wanted.setdefault(label.key, set()).add(label.line)
    found: dict[str, Record] = {}
    for key, numbers in wanted.items():
        if not await objects.exists(PREDICTIONS, key):
            continue
        async for number, line in _lines(objects.stream(PREDICTIONS, key)):
            if number in numbers and (record := _decode(line)):
                found[str(record.get("answer_id"))] = record
    return found


async def corrections(objects: ObjectStore, labels: Sequence[Labelled]) -> dict[str, str]:
    """What people wrote, by the id of their judgement; what is gone is left out."""
    refs = {one.feedback_id: CorrectionRef.model_validate(one.correction) for one in labels if one.correction}
    found = await read(objects, refs.values())
    return {name: found[ref.sha256] for name, ref in refs.items() if ref.sha256 in found}


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Numbered lines of a stream, from 0; of a line too long to be ours only the end is seen."""
    number, rest = 0, b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield number, line
            number += 1
        rest = rest[-_LINE_BYTES:]
    if rest:
        yield number, rest


def _decode(line: bytes) -> Record | None:
    try:
        return msgspec.json.decode(line, type=Record)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _placed(record: Record, row: Row, place: str) -> Placed | Reject:
    try:
        turns = [Turn(turn.role, turn.content.strip()) for turn in messages.to_messages(record)]
    except Unfit:
        return Reject("unknown_shape", place, excerpt(record))
    return Placed(msgspec.structs.replace(row, messages=turns), place)
