"""The golden probe: after each load the engine must answer as the evaluator saw it, which is unlike the base.

An adapter can load and do nothing, or garble, and still be answered with 200.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from services.serving.engines import EngineClient
from shared.contracts.errors import Invalid
from shared.contracts.text import Json, Message


class Golden(Message):
    """One question with the candidate's answer; `base_answer` is what the base model says to it."""

    messages: tuple[Json, ...]
    answer: str
    base_answer: str
    max_tokens: int


_GOLDEN = TypeAdapter(tuple[Golden, ...])


def read_report(report: bytes, sha256: str) -> tuple[Golden, ...]:
    """The golden questions of an evaluation report. Raises Invalid if it was altered or has none that tell."""
    if hashlib.sha256(report).hexdigest() != sha256:
        raise Invalid("The evidence is not the report that was approved.", "Evaluate the version again.")
    try:
        golden = _GOLDEN.validate_python(json.loads(report)["golden"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise Invalid(
            "The evidence has no readable golden questions.", "Evaluate the version again."
        ) from error
    telling = tuple(one for one in golden if one.answer.strip() != one.base_answer.strip())
    if not telling:
        raise Invalid(
            "The evidence has no question that tells the adapter from the base.",
            "Train longer, or evaluate more rows.",
        )
    return telling


async def probe(
    engine: EngineClient, name: str, golden: Sequence[Golden], share: float, seconds: float
) -> str | None:
    """Ask all questions; None if at least `share` of the answers are right, else what is wrong.

    Raises:
        Unavailable: the engine did not answer.
    """
    right = unchanged = 0
    for one in golden:
        async with asyncio.timeout(seconds):
            answer = await engine.chat(name, list(one.messages), one.max_tokens)
        right += answer.strip() == one.answer.strip()
        unchanged += answer.strip() == one.base_answer.strip()
    if right >= share * len(golden):
        return None
    text = f"{right} of {len(golden)} golden answers are as the evaluator saw them"
    return f"{text}, {unchanged} are the base's: the adapter has no effect" if unchanged > right else text
