"""How a judgement is taken: into store and database at once where they answer, else onto local disk; never lost in silence.

A judgement may come before its answer is written, or to another replica than the one that gave it. Then it waits in the
database until the answer is there, and no longer than `wait_seconds`.
"""

import asyncio
import json
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from services.serving import store
from services.serving.domain import Feedback, PendingFeedback
from services.serving.live import changed
from services.serving.metrics import DAMAGED, FEEDBACK, OLDEST, SHED, SPOOLED
from services.serving.service import Judged, ServingService, feedback_id
from services.serving.spool import Spool
from shared.artifacts.corrections import keep
from shared.artifacts.objects import ObjectStore
from shared.contracts.envelope import Envelope
from shared.contracts.errors import Conflict, Forbidden, NotFound, Unavailable
from shared.delivery.failures import classify
from shared.delivery.unit_of_work import Database

_BATCH = 200
_LONGEST_PAUSE_SECONDS = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Accepted:
    """On local disk for good, and written to the database when that answers."""

    feedback_id: str
    answer_id: str


class Judgements:
    """`take` answers within `feedback_seconds`, whatever database and store do; `run` brings home what waits."""

    def __init__(
        self,
        service: ServingService,
        db: Database,
        objects: ObjectStore,
        spool: Spool,
        feedback_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._service = service
        self._db = db
        self._objects = objects
        self._spool = spool
        self._seconds = feedback_seconds
        self._wait = timedelta(seconds=wait_seconds)
        self._given_up: set[asyncio.Task[Any]] = set()
        self._arrived = asyncio.Event()

    async def take(self, judged: Judged) -> Feedback | PendingFeedback | Accepted:
        """Keep a judgement.

        Raises:
            NotFound: nobody here can have given this answer.
            Forbidden: it is of a model that the caller may not judge.
            Conflict: the caller judged it differently before.
            Unavailable: neither the database nor the disk takes it.
        """
        if not self._given_up:  # else the database hangs: it is not asked again before it has answered
            try:
                return await self._in_time(self._write(judged))
            except Exception as error:
                if not classify(error).passes:
                    raise
        return await self._spooled(judged)

    async def _write(self, judged: Judged) -> Feedback | PendingFeedback:
        """Its words first, so that no event refers to what is not there."""
        if judged.corrected is not None:
            await keep(self._objects, {feedback_id(judged.answer_id, judged.actor): judged.corrected})
        async with self._db.unit_of_work(judged.cause) as work:
            return await self._service.judge(work, judged)

    async def _in_time(self, writing: Awaitable[Feedback | PendingFeedback]) -> Feedback | PendingFeedback:
        """Raises TimeoutError. The writing goes on then, and does no harm: a judgement's id is derived from it."""
        task = asyncio.ensure_future(writing)
        done, _ = await asyncio.wait({task}, timeout=self._seconds)
        if not done:
            self._given_up.add(task)
            task.add_done_callback(self._answered)
            raise TimeoutError
        return await task

    def _answered(self, task: "asyncio.Task[Any]") -> None:
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()

    async def _spooled(self, judged: Judged) -> Accepted:
        kept = self._spool.append(_pack(judged))
        if kept:
            try:
                await self._spool.sync()
            except OSError:
                kept = False
        if not kept:
            SHED.labels("feedback").inc()
            raise Unavailable("The judgement cannot be kept now.", "Send it again later.")
        self._arrived.set()
        self._measure()
        return Accepted(feedback_id(judged.answer_id, judged.actor), judged.answer_id)

    async def run(self, every_seconds: float = 1.0) -> None:
        """Settle until cancelled. What waits then is left to the next process."""
        pause = every_seconds
        try:
            while True:
                await changed(self._arrived, pause)
                try:
                    await self.settle()
                    pause = every_seconds
                except Exception as error:  # noqa: BLE001 (whatever hinders it, what waits is tried again)
                    pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                    log.warning("feedback.waiting", error=type(error).__name__, waiting=self._spool.waiting)
                finally:
                    self._measure()
        except asyncio.CancelledError:
            self._spool.close()
            raise

    async def settle(self) -> None:
        """Bring to the database what waits on disk, and to its answer what waits in the database."""
        while segment := await self._spool.oldest():
            for record in segment.records:
                await self._deliver(record)
            if segment.damaged:
                DAMAGED.labels("feedback").inc(segment.damaged)
                log.error("feedback.unreadable", records=segment.damaged)
            self._spool.remove(segment)
        while await self._join() == _BATCH:
            pass

    async def _deliver(self, record: bytes) -> None:
        """What nobody waits for any more is settled with a log line and a count."""
        try:
            judged = _unpack(record)
        except (ValueError, KeyError, TypeError):
            DAMAGED.labels("feedback").inc()
            log.error("feedback.unreadable", records=1)
            return
        try:
            await self._write(judged)
        except (Conflict, Forbidden, NotFound) as error:
            outcome = {Conflict: "conflict", Forbidden: "forbidden"}.get(type(error), "unknown")
            FEEDBACK.labels(outcome).inc()
            log.warning("feedback.settled", outcome=outcome, answer_id=judged.answer_id)

    async def _join(self) -> int:
        async with self._db.unit_of_work() as work:
            found = await store.joinable(work, _BATCH)
            for pending, model in found:
                work.cause = Envelope.from_json(pending.cause)
                try:
                    await self._service.keep(work, pending, model)
                except Forbidden:
                    FEEDBACK.labels("forbidden").inc()
                    log.warning("feedback.settled", outcome="forbidden", answer_id=pending.answer_id)
            late = await store.drop_pending(work, self._service.now() - self._wait)
        if found:
            FEEDBACK.labels("kept").inc(len(found))
        for answer_id in late:
            FEEDBACK.labels("unknown").inc()
            log.warning("feedback.settled", outcome="unknown", answer_id=answer_id)
        return len(found)

    def _measure(self) -> None:
        SPOOLED.labels("feedback").set(self._spool.size)
        since = self._spool.since
        OLDEST.labels("feedback").set(max(0.0, time.time() - since) if since is not None else 0.0)


def _pack(judged: Judged) -> bytes:
    record = {**asdict(judged), "cause": judged.cause.to_json(), "at": judged.at.isoformat()}
    return json.dumps(record).encode()


def _unpack(record: bytes) -> Judged:
    found = json.loads(record)
    at, cause = datetime.fromisoformat(found["at"]), Envelope.from_json(found["cause"])
    models = None if found.get("models") is None else tuple(found["models"])
    return Judged(**{**found, "at": at, "cause": cause, "models": models})
