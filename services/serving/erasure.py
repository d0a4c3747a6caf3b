"""Taking back what a subject said: its questions, the answers to them, and what it or others wrote about those.

A subject is whom a token names, or whom a request names as `user`; rows keep only a digest of both. Erasing writes down who
asked for it, then blanks the lines and deletes the corrections, one object and one transaction at a time. What was still on
the disk of some replica is written later: `run` looks for it for two days.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from services.serving import store
from services.serving.predictions import BUCKET
from shared.artifacts.corrections import CORRECTIONS
from shared.artifacts.objects import ObjectStore
from shared.contracts.envelope import new_id
from shared.contracts.errors import NotFound
from shared.delivery.unit_of_work import Database
from shared.service.clock import Clock

MOST_ANSWERS = 10_000
_LATE = timedelta(days=2)
BLANK = b"{}"
"""Stands in the place of an erased line, so that those behind it keep their numbers."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased, or would be: answers whose texts are gone, and corrections."""

    answers: tuple[str, ...]
    corrections: int


class Eraser:
    def __init__(self, db: Database, objects: ObjectStore, clock: Clock) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock

    async def would_erase(self, model: str, subject: str) -> Erased:
        """At most 10,000 answers, the oldest first."""
        async with self._db.unit_of_work() as work:
            found = await store.erasable(work, model, digest_of(subject), self._clock.now(), MOST_ANSWERS)
            return Erased(tuple(found.answers), len(found.corrections))

    async def erase(self, model: str, subject: str, asked_by: str) -> Erased:
        """Erase everything until now, of at most the 10,000 oldest answers: those that `would_erase` has told.

        Again changes nothing, but that it was asked for is written down each time.

        Raises:
            Unavailable: the store is away; what was erased until then stays so, and the same call goes on.
        """
        erasure_id, at = new_id(), self._clock.now()
        async with self._db.unit_of_work() as work:
            await store.add_erasure(work, erasure_id, model, digest_of(subject), asked_by, at)
        return await self._finish(erasure_id, model, digest_of(subject), at)

    async def run(self, every_seconds: float = 600) -> None:
        """Erase what came after the order and was said before it."""
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await self.sweep()
            except Exception as error:  # noqa: BLE001 (whatever hinders it, it is tried again)
                log.warning("erasure.waiting", error=type(error).__name__)

    async def sweep(self) -> None:
        async with self._db.unit_of_work() as work:
            recent = await store.erasures_since(work, self._clock.now() - _LATE)
        for erasure_id, model, subject, at in recent:
            await self._finish(erasure_id, model, subject, at, since=at - _LATE)

    async def _finish(
        self, erasure_id: str, model: str, subject: str, at: datetime, since: datetime | None = None
    ) -> Erased:
        answers: list[str] = []
        corrections, wanted = 0, None
        while True:
            async with self._db.unit_of_work() as work:
                await store.lock_erasures(work)
                found = await store.erasable(work, model, subject, at, MOST_ANSWERS, since)
                wanted = set(found.answers) if wanted is None else wanted
                lines = [row for row in found.lines if row.answer_id in wanted]
                key = lines[0].object_key if lines else None
                mine = [row for row in lines if row.object_key == key]
                words = found.corrections[:200]
                if not mine and not words:
                    break
                if key is not None:
                    await self._blank(key, {row.line for row in mine if row.line is not None})
                for row in words:
                    if row.correction:
                        await self._objects.delete(CORRECTIONS, row.correction["key"])
                await store.mark_erased(work, erasure_id, subject, mine, words)
            answers += [row.answer_id for row in mine]
            corrections += len(words)
        if answers or corrections:
            log.info("subject.erased", model=model, answers=len(answers), corrections=corrections)
        return Erased(tuple(answers), corrections)

    async def _blank(self, key: str, numbers: set[int]) -> None:
        try:
            lines = (await self._objects.get(BUCKET, key)).split(b"\n")
        except NotFound:  # expired: all of it is gone
            return
        blanked = [BLANK if number in numbers and line else line for number, line in enumerate(lines)]
        if blanked != lines:
            await self._objects.put(BUCKET, key, b"\n".join(blanked))


def digest_of(subject: str) -> str:
    return hashlib.sha256(subject.encode()).hexdigest()
