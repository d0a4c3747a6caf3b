"""Pages of kept answers. A sheet never changes, so a line's number is a place to go on from; reading stops early."""

import json
from collections.abc import AsyncIterator
from typing import Literal, NamedTuple

from services.evaluator.domain import Evaluation, Kept, Split
from shared.artifacts.objects import ObjectStore
from shared.contracts.errors import NotFound
from shared.contracts.text import Json

Change = Literal["regression", "improvement", "same"]


class Page(NamedTuple):
    """Lines of a sheet, each with its `position`, counted from 0; `more` says whether others follow."""

    kept: Kept
    answers: list[Json]
    more: bool


class AnswerReader:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def page(
        self, one: Evaluation, split: Split, change: Change | None, after: int, limit: int
    ) -> Page:
        """At most `limit` lines behind line `after` (-1: from the first), those with `change` if it is given.

        Raises:
            NotFound: no answers were kept for this split, or they are gone.
        """
        if split not in one.answers:
            raise NotFound(
                "No answers are kept for this split of the evaluation.", "Its `answers` name those there are."
            )
        kept = Kept.model_validate(one.answers[split])
        first, end = span(kept, change)
        first = max(first, after + 1)
        until = min(end, first + limit)
        found: list[Json] = []
        if first < until:
            async for position, line in self._lines(kept):
                if position >= first:
                    found.append({"position": position, **json.loads(line)})
                if position + 1 >= until:
                    break
        return Page(kept, found, until < end)

    async def _lines(self, kept: Kept) -> AsyncIterator[tuple[int, bytes]]:
        position, rest = 0, b""
        async for chunk in self._objects.stream(kept.bucket, kept.key):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield position, line
                position += 1


def span(kept: Kept, change: Change | None) -> tuple[int, int]:
    """Numbers of the first line with this change, and of the one after the last: a sheet is in order of changes."""
    changed = kept.regressions + kept.improvements
    ends: dict[Change | None, tuple[int, int]] = {
        None: (0, kept.kept),
        "regression": (0, kept.regressions),
        "improvement": (kept.regressions, changed),
        "same": (changed, kept.kept),
    }
    first, end = ends[change]
    return first, min(end, kept.kept)
