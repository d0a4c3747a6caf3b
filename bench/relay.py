"""`python -m bench.relay`: the way from a commit to Kafka, beside faststream-outbox on the same machine in the same run.

Prints a table with the goal beside each figure, and exits 1 where one is missed. The peer is no dependency of ours: without
it (`uv pip install faststream-outbox asyncpg`) its rows are left out, and said to be.
"""

import asyncio
import importlib
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine

from infra.kafka import topics
from infra.local.stack import Stack
from shared.contracts.events import FeedbackRecorded
from shared.delivery import schema
from shared.delivery.bus import make_producer
from shared.delivery.kafka import broker_connection
from shared.delivery.relay import Relay
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database
from shared.operations.pulse import pulse

SATURATED = 10_000
PEER = 2_000
SINGLE = 200
PENDING = 300_000
TUNED = {
    "fetch_batch_size": 500,
    "max_workers": 16,
    "terminal_flush_batch_size": 100,
    "min_fetch_interval": 0.01,
}


@dataclass(frozen=True)
class Figure:
    """What was measured, and what it should be at least, or at most."""

    name: str
    value: float | None
    least: float | None = None
    most: float | None = None

    @property
    def missed(self) -> bool:
        if self.value is None:
            return False
        return (self.least is not None and self.value < self.least) or (
            self.most is not None and self.value > self.most
        )


def kernel_database(url: str) -> Database:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        schema._upgrade(connection, Path(schema.__file__).parent / "migrations", "kernel_version")
        schema._procrastinate(connection)
    engine.dispose()
    return Database("serving", url)


def feedback(name: str) -> FeedbackRecorded:
    return FeedbackRecorded(feedback_id=name, answer_id=name, model="bench", score=1, actor="bench")


async def fill(db: Database, messages: int) -> None:
    for start in range(0, messages, 500):
        async with db.unit_of_work() as work:
            for number in range(start, start + 500):
                work.emit(feedback(f"s-{number}"))


async def count(db: Database, table: str) -> int:
    async with db.unit_of_work() as work:
        return int((await work.execute(f"SELECT count(*) FROM {table}")).scalar_one())


@contextmanager
def timed() -> Iterator[list[float]]:
    began, seconds = time.perf_counter(), [0.0]
    yield seconds
    seconds[0] = time.perf_counter() - began


async def ours(db: Database, settings: DeliverySettings) -> tuple[float, float]:
    """Messages a second of a saturated relay; milliseconds from commit to Kafka of single events, idle, the median."""
    await fill(db, SATURATED)
    relay = asyncio.create_task(Relay("serving", db.url, lambda: make_producer(settings, "serving")).run())
    while await count(db, "sent") < 500:  # started, and warm
        await asyncio.sleep(0.01)
    left = await count(db, "outbox")
    with timed() as seconds:
        while await count(db, "outbox"):
            await asyncio.sleep(0.01)
    await asyncio.sleep(3)  # idle again
    for number in range(SINGLE):
        async with db.unit_of_work() as work:
            work.emit(feedback(f"l-{number}"))
        await asyncio.sleep(0.03)
    await asyncio.sleep(1)
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    async with db.unit_of_work() as work:
        found = await work.execute(
            "SELECT extract(epoch FROM sent_at - created_at) * 1000 FROM sent ORDER BY created_at DESC LIMIT :n",
            {"n": SINGLE},
        )
        waits = [float(row[0]) for row in found]
    return left / seconds[0], statistics.median(waits)


async def peer(url: str, settings: DeliverySettings, messages: int, **tuning: Any) -> float:
    """Messages a second of faststream-outbox, from its table to the same Kafka."""
    outbox: Any = importlib.import_module("faststream_outbox")
    from faststream.kafka import KafkaBroker
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    metadata = MetaData()
    table = outbox.make_outbox_table(metadata, table_name="peer_outbox")
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=20)
    async with engine.begin() as started:
        await started.run_sync(metadata.drop_all)
        await started.run_sync(metadata.create_all)
    broker = outbox.OutboxBroker(engine, outbox_table=table, logger=None)
    kafka = KafkaBroker(**broker_connection(settings), acks="all", enable_idempotence=True, logger=None)
    sent = 0

    @kafka.publisher(FeedbackRecorded.topic)
    @broker.subscriber("bench", **tuning)
    async def relay(body: dict[str, Any]) -> dict[str, Any]:
        nonlocal sent
        sent += 1
        return body

    body = feedback("p").model_dump(mode="json")
    for _ in range(0, messages, 500):
        async with AsyncSession(engine) as session:
            for _ in range(500):
                await broker.publish(body, queue="bench", session=session)
            await session.commit()
    await kafka.connect()
    await broker.start()
    while sent < messages // 20:
        await asyncio.sleep(0.01)
    left = messages - sent
    with timed() as seconds:
        while sent < messages:
            await asyncio.sleep(0.01)
    await broker.stop()
    await kafka.stop()
    await engine.dispose()
    return left / seconds[0]


async def pulse_of_many(db: Database) -> float:
    """Milliseconds of a pulse with 300,000 events that wait."""
    with psycopg.connect(db.url, autocommit=True) as raw:
        raw.execute(
            "INSERT INTO outbox (event_id, topic, headers, body, correlationid) "
            "SELECT 'e' || g, 'training.status', '[]', 'x', 'c' || g FROM generate_series(1, %s) AS g",
            [PENDING],
        )
        raw.execute("VACUUM ANALYZE outbox")
    times = []
    for _ in range(20):
        async with db.unit_of_work() as work:
            with timed() as seconds:
                await pulse(work, "serving")
        times.append(seconds[0] * 1_000)
    return statistics.median(times)


async def measure(stack: Stack) -> list[Figure]:
    settings = DeliverySettings(**stack.site.kafka("admin").model_dump())
    await topics.ensure(settings, [topics.Topic(FeedbackRecorded.topic, 3)])
    db = kernel_database(stack.site.database_url("serving"))
    rate, wait = await ours(db, settings)
    figures = [
        Figure("relay, messages/s", rate),
        Figure("idle, commit to Kafka, ms (median)", wait, most=15),
    ]
    found = all(importlib.util.find_spec(name) for name in ("faststream_outbox", "asyncpg"))
    for name, least, tuning in (("defaults", 10.0, {}), ("tuned", 1.5, TUNED)):
        theirs = await peer(db.url, settings, PEER if tuning else PEER // 4, **tuning) if found else None
        figures += [
            Figure(f"faststream-outbox, {name}, messages/s", theirs),
            Figure(f"  ours against it ({name}), times", rate / theirs if theirs else None, least=least),
        ]
    figures.append(Figure("pulse with 300,000 waiting, ms (median)", await pulse_of_many(db), most=10))
    await db.close()
    return figures


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="driftwheel-bench-") as home, Stack(Path(home)) as stack:
        stack.start("kafka", "postgres")
        figures = asyncio.run(measure(stack))
    table = Table("what", "measured", "goal", title="From a commit to Kafka")
    for figure in figures:
        goal = f"≥ {figure.least:g}" if figure.least is not None else ""
        goal = f"≤ {figure.most:g}" if figure.most is not None else goal
        shown = "not installed" if figure.value is None else f"{figure.value:,.1f}"
        table.add_row(figure.name, shown, goal, style="red" if figure.missed else "default")
    Console(width=100).print(table)
    return int(any(figure.missed for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
