"""The prompts to compare: what users ask now, and what the serving version was trained on."""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from services.monitor.domain import DATASETS, PREDICTIONS
from shared.artifacts.objects import ObjectStore, object_key, read_manifest
from shared.contracts.errors import Invalid, NotFound

TRAIN = "train.jsonl"
_LONGEST_LINE = 1_048_576


class Place(NamedTuple):
    """Where the text of an answer is: a line (from 0) of an object in the `predictions` bucket."""

    answer_id: str
    key: str
    line: int


def prompt_of(messages: Any) -> str | None:
    """The last thing the user said, or None if there is no such text."""
    if not isinstance(messages, list):
        return None
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return _clean(message.get("content"))
    return None


def _clean(content: Any) -> str | None:
    if isinstance(content, list):  # OpenAI's content parts; only text can be compared
        content = "\n".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    if not isinstance(content, str) or not content.strip():
        return None
    return content.encode("utf-8", "replace").decode("utf-8").strip()


async def served(objects: ObjectStore, places: Sequence[Place]) -> list[str]:
    """The prompts of served answers, in the order of `places`; one read per object.

    What is gone, unreadable or names another answer is left out.
    """
    wanted: dict[str, dict[int, str]] = defaultdict(dict)
    for place in places:
        wanted[place.key][place.line] = place.answer_id
    found: dict[str, str] = {}
    for key, lines in wanted.items():
        try:
            async for number, line in _numbered(objects.stream(PREDICTIONS, key)):
                record = _record(line) if number in lines else None
                if record is None or record.get("answer_id") != lines[number]:
                    continue
                if prompt := prompt_of(record.get("messages")):
                    found[lines[number]] = prompt
        except NotFound:
            continue
    return [found[place.answer_id] for place in places if place.answer_id in found]


async def reference(objects: ObjectStore, dataset_digest: str, limit: int) -> list[str]:
    """At most `limit` prompts of a dataset's training split: the same ones each time.

    Raises:
        NotFound, Invalid: the dataset is gone, or is not what its digest says.
    """
    manifest = await read_manifest(objects, DATASETS, dataset_digest)
    if TRAIN not in manifest.files:
        raise Invalid(f"The dataset has no {TRAIN}.", "Publish it again with the data service.")
    digest = hashlib.sha256()

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in objects.stream(DATASETS, object_key(dataset_digest, TRAIN)):
            digest.update(chunk)
            yield chunk

    draw = random.Random(dataset_digest)  # noqa: S311 (a sample, not a secret)
    sample: list[str] = []
    seen = 0
    async for _, line in _numbered(chunks()):
        if (record := _record(line)) and (prompt := prompt_of(record.get("messages"))):
            seen += 1
            if len(sample) < limit:
                sample.append(prompt)
            elif (slot := draw.randrange(seen)) < limit:  # reservoir: every row has the same chance
                sample[slot] = prompt
    if digest.hexdigest() != manifest.files[TRAIN]["sha256"]:
        raise Invalid(f"{TRAIN} differs from its digest.", "The dataset was altered: publish it again.")
    return sample


async def _numbered(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Lines with their number; of a line too long to be ours only an end is kept, so memory stays bounded."""
    number, rest = 0, b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield number, line
            number += 1
        rest = rest[-_LONGEST_LINE:]
    if rest:
        yield number, rest


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
