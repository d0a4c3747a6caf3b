"""The prediction log: every answer becomes a line in the object store, a row and an event, never in the caller's way.

Answers wait in a bounded queue in memory; what a killed process had not written yet is lost (at most
`flush_seconds` of answers while store and database work).
"""

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import structlog

from services.serving import store
from services.serving.domain import Prediction
from services.serving.live import changed
from services.serving.metrics import QUEUE, SHED
from shared.artifacts.objects import ObjectStore
from shared.contracts.envelope import Envelope
from shared.contracts.events import LineRef, PredictionServed
from shared.delivery.unit_of_work import Database

BUCKET = "predictions"
_LAST_FLUSH_SECONDS = 5
_LONGEST_PAUSE_SECONDS = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Served:
    """One answer. `line` is its text as JSON; failed answers have none."""

    event: PredictionServed
    cause: Envelope
    line: bytes | None = None


def text_line(answer_id: str, model: str, messages: Sequence[dict[str, str]], answer: str) -> bytes:
    record = {"answer_id": answer_id, "model": model, "messages": messages, "answer": answer}
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long and how much: see the settings of the same names."""

    flush_seconds: float = 0.5
    flush_records: int = 200
    log_records: int = 10_000
    log_bytes: int = 67_108_864


class PredictionLog:
    """`add` never waits; `run` writes."""

    def __init__(self, bounds: Bounds, db: Database, objects: ObjectStore) -> None:
        self._bounds = bounds
        self._db = db
        self._objects = objects
        self._queue: deque[Served] = deque()
        self._models: dict[str, str] = {}
        self._bytes = 0
        self._batch: tuple[Served, ...] = ()
        self._enough = asyncio.Event()

    def add(self, served: Served) -> None:
        """Queue an answer; beyond the bounds it is shed and counted."""
        size = len(served.line or b"")
        if len(self._queue) >= self._bounds.log_records or self._bytes + size > self._bounds.log_bytes:
            SHED.labels("prediction").inc()
            return
        self._queue.append(served)
        self._models[served.event.answer_id] = served.event.model
        self._bytes += size
        QUEUE.set(len(self._queue))
        if len(self._queue) >= self._bounds.flush_records:
            self._enough.set()

    def model_of(self, answer_id: str) -> str | None:
        """The model of an answer that is not written yet."""
        return self._models.get(answer_id)

    async def run(self) -> None:
        """Write until cancelled, then write the rest."""
        pause = self._bounds.flush_seconds
        try:
            while True:
                await changed(self._enough, pause)
                try:
                    await self.flush()
                    pause = self._bounds.flush_seconds
                except Exception as error:  # noqa: BLE001 (whatever fails, the answers stay and are tried again)
                    pause = min(max(pause, 0.1) * 2, _LONGEST_PAUSE_SECONDS)
                    log.warning(
                        "predictions.waiting",
                        error=type(error).__name__,
                        waiting=len(self._queue),
                        seconds=pause,
                    )
        except asyncio.CancelledError:
            await self._flush_at_the_end()
            raise

    async def _flush_at_the_end(self) -> None:
        try:
            await asyncio.wait_for(self.flush(), _LAST_FLUSH_SECONDS)
        except Exception as error:  # noqa: BLE001 (the process ends; what could not be written is counted)
            SHED.labels("prediction").inc(len(self._queue))
            log.error("predictions.lost", error=type(error).__name__, lost=len(self._queue))

    async def flush(self) -> None:
        """Write all that waits. A batch that failed is repeated as it was, so nothing is written twice."""
        while self._queue:
            self._batch = self._batch or tuple(islice(self._queue, self._bounds.flush_records))
            await self._write(self._batch)
            for served in self._batch:
                self._queue.popleft()
                self._models.pop(served.event.answer_id, None)
                self._bytes -= len(served.line or b"")
            self._batch = ()
            QUEUE.set(len(self._queue))

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
            new = await store.add_predictions(work, [_row(event) for event, _ in events])
            for event, cause in events:
                if event.answer_id in new:
                    work.cause = cause
                    work.emit(event)


def _row(event: PredictionServed) -> Prediction:
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
    )
