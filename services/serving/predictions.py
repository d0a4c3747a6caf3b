"""The prediction log: every answer becomes a line in the object store, a row and an event, never in the caller's way.

An answer is on local disk before anything else, and leaves it when all three are written. Store, database and Kafka may
be away for as long as the spool's limit allows; a killed process goes on where it stopped. A segment of the spool is one
object, named by its content, and one transaction: repeated after an unknown end, both change nothing.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from services.serving import store
from services.serving.domain import Prediction
from services.serving.live import changed
from services.serving.metrics import DAMAGED, OLDEST, QUEUE, SHED, SPOOLED
from services.serving.spool import Segment, Spool
from shared.artifacts.objects import ObjectStore
from shared.contracts.envelope import Envelope
from shared.contracts.events import LineRef, PredictionServed
from shared.delivery.unit_of_work import Database

BUCKET = "predictions"
_LAST_FLUSH_SECONDS = 5
_LONGEST_PAUSE_SECONDS = 5.0
_NEWEST = 10_000
"""Answers whose model is known by heart, so that a judgement need not wait until they are written."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Served:
    """One answer. `line` is its text as JSON; failed answers have none. The digests are of who asked."""

    event: PredictionServed
    cause: Envelope
    line: bytes | None = None
    subject_sha256: str | None = None
    user_sha256: str | None = None

    def pack(self) -> bytes:
        record = {
            "event": self.event.model_dump(mode="json"),
            "cause": self.cause.to_json(),
            "line": self.line.decode() if self.line is not None else None,
            "subject": self.subject_sha256,
            "user": self.user_sha256,
        }
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, record: bytes) -> "Served":
        """Raises ValueError if it is no answer, as after a change of what an answer has to say."""
        try:
            found = json.loads(record)
            line = found["line"].encode() if found["line"] is not None else None
            event = PredictionServed.model_validate(found["event"])
            cause = Envelope.from_json(found["cause"])
            return cls(event, cause, line, found.get("subject"), found.get("user"))
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise ValueError(type(error).__name__) from error


def text_line(answer_id: str, model: str, messages: Sequence[dict[str, str]], answer: str) -> bytes:
    record = {"answer_id": answer_id, "model": model, "messages": messages, "answer": answer}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


class PredictionLog:
    """`add` never waits; `run` writes."""

    def __init__(self, spool: Spool, db: Database, objects: ObjectStore, flush_seconds: float = 0.5) -> None:
        self._spool = spool
        self._db = db
        self._objects = objects
        self._flush_seconds = flush_seconds
        self._models: dict[str, str] = {}
        self._enough = asyncio.Event()

    def add(self, served: Served) -> None:
        """Keep an answer; where there is no room for it, it is shed and counted."""
        if not self._spool.append(served.pack()):
            SHED.labels("prediction").inc()
            return
        self._models[served.event.answer_id] = served.event.model
        if len(self._models) > _NEWEST:
            del self._models[next(iter(self._models))]
        self._measure()
        if self._spool.is_due:
            self._enough.set()

    def model_of(self, answer_id: str) -> str | None:
        """The model of an answer that may not be written yet."""
        return self._models.get(answer_id)

    async def run(self) -> None:
        """Write until cancelled, then write the rest. What cannot be written by then waits for the next process."""
        pause = self._flush_seconds
        try:
            while True:
                await changed(self._enough, pause)
                try:
                    await self.flush()
                    pause = self._flush_seconds
                except Exception as error:  # noqa: BLE001 (whatever fails, the answers stay and are tried again)
                    pause = min(max(pause, 0.1) * 2, _LONGEST_PAUSE_SECONDS)
                    log.warning(
                        "predictions.waiting",
                        error=type(error).__name__,
                        waiting=self._spool.waiting,
                        seconds=pause,
                    )
                finally:
                    self._measure()
        except asyncio.CancelledError:
            last = asyncio.ensure_future(self.flush())
            await asyncio.wait({last}, timeout=_LAST_FLUSH_SECONDS)
            if not last.done() or last.exception():
                log.warning("predictions.left", waiting=self._spool.waiting)
            last.cancel()
            self._spool.close()
            raise

    async def flush(self) -> None:
        """Write all that waits. What failed is repeated as it was, so nothing is written twice."""
        await self._spool.sync()
        while segment := await self._spool.oldest():
            batch = _read(segment)
            if batch:
                await self._write(batch)
            for served in batch:
                self._models.pop(served.event.answer_id, None)
            self._spool.remove(segment)
            self._measure()

    async def _write(self, batch: Sequence[Served]) -> None:
        lines = [served.line for served in batch if served.line is not None]
        content = b"".join(lines)
        key = f"date={batch[0].event.served_at:%Y-%m-%d}/{hashlib.sha256(content).hexdigest()}.jsonl"
        if lines:
            await self._objects.create(BUCKET, key, content)
        events, number = [], 0
        for served in batch:
            text = LineRef(bucket=BUCKET, key=key, line=number) if served.line is not None else None
            number += text is not None
            events.append((served.event.model_copy(update={"text": text}), served.cause))
        async with self._db.unit_of_work() as work:
            rows = [_row(event, one) for (event, _), one in zip(events, batch, strict=True)]
            new = await store.add_predictions(work, rows)
            for event, cause in events:
                if event.answer_id in new:
                    work.cause = cause
                    work.emit(event)

    def _measure(self) -> None:
        QUEUE.set(self._spool.waiting)
        SPOOLED.labels("prediction").set(self._spool.size)
        since = self._spool.since
        OLDEST.labels("prediction").set(max(0.0, time.time() - since) if since is not None else 0.0)


def _read(segment: Segment) -> list[Served]:
    """The answers of a segment, without what was torn when a process or the machine died."""
    found, damaged = [], segment.damaged
    for record in segment.records:
        try:
            found.append(Served.unpack(record))
        except ValueError:
            damaged += 1
    if damaged:
        DAMAGED.labels("prediction").inc(damaged)
        log.error("predictions.unreadable", records=damaged, segment=segment.path.name)
    return found


def _row(event: PredictionServed, served: Served) -> Prediction:
    return Prediction(
        answer_id=event.answer_id,
        model=event.model,
        model_version=event.model_version,
        arm=event.arm,
        rollout_id=event.rollout_id,
        served_at=event.served_at,
        latency_ms=event.latency_ms,
        outcome=event.outcome,
        object_key=event.text.key if event.text else None,
        line=event.text.line if event.text else None,
        subject_sha256=served.subject_sha256,
        user_sha256=served.user_sha256,
    )
