"""What differs between two datasets, row by row, in bounded memory: rows become hashes, hashes go to buckets on disk.

A row is its normalised prompt, which a dataset holds once; its answer may differ. Memory: one bucket of either side,
about 300 bytes a row, so 10 MB for two million rows. Disk: 42 bytes a row.
"""

import heapq
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from services.data.rows import SPLITS, Row, marks
from shared.contracts.text import Json

BUCKETS = 64
EXAMPLES = 20
_BUFFER = 1 << 16
_EXCERPT = 200
_MARK = struct.Struct("<16s16sBQ")
_decode = msgspec.json.Decoder(Row).decode


class Mark(NamedTuple):
    """A row as hashes: `split` is its place in SPLITS, `offset` that of its line in the split's file, in bytes."""

    prompt: bytes
    answer: bytes
    split: int
    offset: int


class Answers(NamedTuple):
    """Answers that only one of two datasets gives: how many, and those of most rows."""

    number: int
    most: list[tuple[int, int, int]]
    """rows, split, offset"""


def compare(new: Path, old: Path, scratch: Path) -> Json:
    """`added`, `removed`, `kept` and `changed_answer` by split, `changed_split` (must be 0), and new and gone answers.

    `new` and `old` hold the split files of two datasets; `scratch` is an empty folder for the buckets.
    """
    for name, folder in (("new", new), ("old", old)):
        scatter(folder, scratch / name)
    counts = {name: dict.fromkeys(SPLITS, 0) for name in ("added", "removed", "kept", "changed_answer")}
    changed_split = 0
    for bucket in range(BUCKETS):
        known = {mark.prompt: mark for mark in gather(scratch / "old" / f"prompt-{bucket}")}
        for mark in gather(scratch / "new" / f"prompt-{bucket}"):
            before = known.pop(mark.prompt, None)
            split = SPLITS[mark.split]
            if before is None:
                counts["added"][split] += 1
                continue
            counts["kept" if before.answer == mark.answer else "changed_answer"][split] += 1
            changed_split += before.split != mark.split
        for mark in known.values():
            counts["removed"][SPLITS[mark.split]] += 1
    return {
        **counts,
        "changed_split": changed_split,
        "new_answers": _told(new, only_in(scratch / "new", scratch / "old")),
        "gone_answers": _told(old, only_in(scratch / "old", scratch / "new")),
    }


def scatter(folder: Path, to: Path) -> None:
    """Write every row of a dataset as a mark into one bucket by its prompt and one by its answer."""
    to.mkdir(parents=True)
    with ExitStack() as stack:

        def opened(kind: str) -> list[BinaryIO]:
            return [
                stack.enter_context((to / f"{kind}-{bucket}").open("wb", _BUFFER))
                for bucket in range(BUCKETS)
            ]

        prompts, answers = opened("prompt"), opened("answer")
        for place, split in enumerate(SPLITS):
            offset = 0
            with (folder / f"{split}.jsonl").open("rb") as file:
                for line in file:
                    mark = marks(_decode(line).messages)
                    packed = _MARK.pack(mark.prompt, mark.answer, place, offset)
                    prompts[mark.prompt[0] % BUCKETS].write(packed)
                    answers[mark.answer[0] % BUCKETS].write(packed)
                    offset += len(line)


def gather(bucket: Path) -> Iterator[Mark]:
    with bucket.open("rb", _BUFFER) as file:
        while packed := file.read(_MARK.size):
            yield Mark(*_MARK.unpack(packed))


def only_in(here: Path, there: Path) -> Answers:
    """Answers in the buckets `here` that occur nowhere in those `there`."""
    number, most = 0, list[tuple[int, int, int]]()
    for bucket in range(BUCKETS):
        known = {mark.answer for mark in gather(there / f"answer-{bucket}")}
        found: dict[bytes, tuple[int, int, int]] = {}
        for mark in gather(here / f"answer-{bucket}"):
            if mark.answer not in known:
                rows, split, offset = found.get(mark.answer, (0, mark.split, mark.offset))
                found[mark.answer] = (rows + 1, split, offset)
        number += len(found)
        most = heapq.nlargest(EXAMPLES, (*most, *found.values()))
    return Answers(number, most)


def _told(folder: Path, answers: Answers) -> Json:
    examples: list[Mapping[str, object]] = []
    for rows, split, offset in answers.most:
        with (folder / f"{SPLITS[split]}.jsonl").open("rb") as file:
            file.seek(offset)
            text = _decode(file.readline()).messages[-1].content
        examples.append({"answer": text[:_EXCERPT], "rows": rows, "split": SPLITS[split]})
    return {"number": answers.number, "examples": examples}
