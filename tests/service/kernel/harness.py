"""Two services on real PostgreSQL, a log between them, and a crash before or after any I/O one chooses.

The log stands for Kafka's promise (append-only, delivered at least once, from the committed offset); what is tested
is everything on our side of it: inbox, unit of work, outbox, relay and burial, exactly as the services run them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from aiokafka import ConsumerRecord
from psycopg.rows import dict_row

from shared.contracts.events import Event, FeedbackRecorded, TrainingStatus
from shared.delivery import outbox
from shared.delivery import unit_of_work as db
from shared.delivery.handling import Done, Handling, Tries
from shared.delivery.relay import Relay
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database, UnitOfWork
from tests.chaos.history import Handled, Said

_HANDLED = 'SELECT topic, source, event_id, partition, "offset", state, handled_at FROM inbox'
_SAID = """
SELECT topic, event_id, row_number() OVER (ORDER BY created_at), partition, "offset" FROM (
    SELECT topic, event_id, created_at, partition, "offset" FROM sent
    UNION ALL SELECT topic, event_id, created_at, NULL, NULL FROM outbox
) AS said
"""


class Crash(BaseException):
    """kill -9: nothing after this line runs, and nothing may catch it."""


@dataclass
class Io:
    """Counts the I/Os of one action; raises Crash at the planned one."""

    crash_at: int | None = None
    count: int = 0

    def step(self) -> None:
        self.count += 1
        if self.crash_at is not None and self.count == self.crash_at:
            raise Crash


@dataclass
class Log:
    """Topics as lists of (key, value, headers); one partition each."""

    records: dict[str, list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]] = field(
        default_factory=dict
    )

    def append(
        self, topic: str, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> int:
        self.records.setdefault(topic, []).append((key, value, headers))
        return len(self.records[topic]) - 1

    def record(self, topic: str, offset: int) -> "ConsumerRecord[Any, Any]":
        key, value, headers = self.records[topic][offset]
        now = int(time.time() * 1_000)
        return ConsumerRecord(
            topic, 0, offset, now, 0, key, value, None, len(key or b""), len(value or b""), tuple(headers)
        )

    def ids(self, topic: str) -> list[str]:
        return [dict(headers)["ce_id"].decode() for _, _, headers in self.records.get(topic, [])]


class LogProducer:
    """The relay's producer over the log, with an I/O before and after each append."""

    def __init__(self, log: Log, io: Io) -> None:
        self._log = log
        self._io = io

    @property
    def client(self) -> Any:
        return self

    async def fetch_all_metadata(self) -> Any:
        return self

    def topics(self) -> set[str]:
        """The log takes every topic that is used here."""
        return {"training.status", "feedback.recorded.data.dlq", "training.status.trainer.dlq"}

    async def send(self, topic: str, value: Any, key: Any, headers: Any) -> "asyncio.Future[Any]":
        self._io.step()
        offset = self._log.append(topic, key, value, headers)
        self._io.step()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(type("Sent", (), {"partition": 0, "offset": offset})())
        return future


class Service:
    """One consumer of one topic, as the runtime assembles it."""

    def __init__(
        self, name: str, url: str, topic: str, handler: Callable[[Event, UnitOfWork], Awaitable[None]]
    ) -> None:
        self.name = name
        self.url = url
        self.topic = topic
        self.handler = handler
        self.offset = 0
        self.db = Database(name, url)
        self.io = Io()
        self.handling = Handling(name, self.db, DeliverySettings(retry_attempts=2))
        self.relay = Relay(name, url, lambda: None)  # type: ignore[arg-type,return-value]

    async def deliver(self, log: Log, offset: int | None = None) -> None:
        """Handle the record at the committed offset, then commit it; or any other one, out of turn."""
        position = self.offset if offset is None else offset
        if position >= len(log.records.get(self.topic, [])):
            return
        with counted(self.io):
            done = await self.handling.one(
                log.record(self.topic, position), self._call, Tries(), lambda _source: None
            )
            assert isinstance(done, Done)
            self.io.step()
        if offset is None:
            self.offset += 1

    async def _call(self, events: list[Event], work: UnitOfWork) -> None:
        self.io.step()
        [event] = events
        await self.handler(event, work)
        self.io.step()

    async def relay_once(self, log: Log) -> int:
        async with await psycopg.AsyncConnection.connect(self.url, row_factory=dict_row) as connection:
            return await self.relay._relay_batch(connection, LogProducer(log, self.io))  # type: ignore[arg-type]

    async def effects(self) -> list[str]:
        async with self.db.unit_of_work() as work:
            return [row[0] for row in await work.execute("SELECT effect FROM effects ORDER BY effect")]

    async def handled(self) -> list[Handled]:
        async with self.db.unit_of_work() as work:
            return [Handled(self.name, *row) for row in await work.execute(_HANDLED)]

    async def said(self) -> list[Said]:
        """What it has committed, in that order, whether it was sent or waits."""
        async with self.db.unit_of_work() as work:
            return [
                Said(self.name, topic, event_id, number, None if offset is None else (partition, offset))
                for topic, event_id, number, partition, offset in await work.execute(_SAID)
            ]


class counted:
    """Count the database's I/Os of the code inside: each use of the connection, and both sides of a commit."""

    def __init__(self, io: Io) -> None:
        self._io = io

    def __enter__(self) -> None:
        self._raw, self._unit = UnitOfWork.raw, Database.unit_of_work
        io, raw = self._io, UnitOfWork.raw

        async def counting_raw(work: UnitOfWork) -> Any:
            io.step()
            return await raw(work)

        @asynccontextmanager
        async def counting_unit(database: Database, cause: Any = None) -> AsyncIterator[UnitOfWork]:
            async with self._unit(database, cause) as work:
                io.step()
                yield work
                io.step()
            io.step()

        UnitOfWork.raw = counting_raw  # type: ignore[method-assign]
        Database.unit_of_work = counting_unit  # type: ignore[method-assign,assignment]

    def __exit__(self, *_: object) -> None:
        UnitOfWork.raw, Database.unit_of_work = self._raw, self._unit  # type: ignore[method-assign]


async def on_feedback(event: Event, work: UnitOfWork) -> None:
    """The first service: one effect and one event per feedback; feedback called poison can never be handled."""
    assert isinstance(event, FeedbackRecorded)
    await work.execute("INSERT INTO effects (effect) VALUES (:effect)", {"effect": event.feedback_id})
    work.emit(TrainingStatus(model="support", state="accepted", run_id=event.feedback_id))
    if event.feedback_id.startswith("poison"):
        raise ValueError("poison")


async def on_status(event: Event, work: UnitOfWork) -> None:
    assert isinstance(event, TrainingStatus)
    await work.execute("INSERT INTO effects (effect) VALUES (:effect)", {"effect": event.run_id})


def publish(log: Log, feedback_id: str) -> None:
    event = FeedbackRecorded(
        feedback_id=feedback_id, answer_id=feedback_id, model="support", score=1, actor="ann"
    )
    headers = [("ce_id", f"event-{feedback_id}".encode()), ("ce_type", event.ce_type().encode())]
    log.append(event.topic, feedback_id.encode(), event.model_dump_json().encode(), headers)


__all__ = ["Crash", "Io", "Log", "Service", "counted", "db", "on_feedback", "on_status", "outbox", "publish"]
