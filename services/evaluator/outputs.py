"""What a subject answered, kept in the object store so that it is generated once."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field, ValidationError

from shared.artifacts.objects import ObjectStore
from shared.contracts.errors import NotFound
from shared.contracts.text import Digest, Finite, Json, Message, Text

BUCKET = "evaluations"
FORMAT = 1
"""Raise when generation changes its answers, so that old outputs are not mixed with new ones."""


class Output(Message):
    """One answer.

    Attributes:
        row: the key of the row.
        margin: the smallest lead, in nats, of a chosen token over the next best: how sure the greedy answer is.
        nll: negative log-likelihood of the reference answer, summed over its `tokens` tokens, in nats.
        finished: the model ended its turn; False if it was cut at the token limit.
    """

    row: Digest
    answer: Text
    finished: bool
    margin: Finite
    nll: Finite
    tokens: int = Field(ge=1)


Outputs = Mapping[str, Output]
"""By row key."""


def cache_key(identity: Json) -> str:
    """Where outputs live: `identity` holds everything that decides them."""
    canonical = json.dumps({"format": FORMAT, **identity}, sort_keys=True, separators=(",", ":"))
    return f"outputs/{hashlib.sha256(canonical.encode()).hexdigest()}.jsonl"


async def load(store: ObjectStore, key: str) -> dict[str, Output]:
    """Outputs generated before; none if there are none, or they cannot be read."""
    try:
        data = await store.get(BUCKET, key)
        rows = [Output.model_validate_json(line) for line in data.splitlines()]
    except (NotFound, ValidationError):
        return {}
    return {output.row: output for output in rows}


async def save(store: ObjectStore, key: str, outputs: Iterable[Output]) -> None:
    lines = (output.model_dump_json() for output in outputs)
    await store.put(BUCKET, key, "\n".join(lines).encode())


def plan(lengths: Sequence[int], budget: int, most: int) -> list[list[int]]:
    """Indices in batches, longest first, so that neighbours need little padding.

    Args:
        lengths: tokens of each row, prompt and answer.
        budget: tokens of one batch, padding included; a row longer than that gets its own batch.
        most: rows of one batch.
    """
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or len(batches[-1]) >= most or (len(batches[-1]) + 1) * width > budget:
            batches.append([])
            width = lengths[index]
        batches[-1].append(index)
    return batches
