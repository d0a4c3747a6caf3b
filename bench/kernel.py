"""`python -m bench.kernel [ROW …]`: what delivery costs, on real Kafka and PostgreSQL of this machine, with peers in the same run.

Prints a table with the goal beside each figure, and exits 1 where a goal is missed. Every row is a function of ROWS. All
consumers read the same 20,000 `prediction.served` of three partitions and write the same row for each; `msg/CPU s`
counts the CPU seconds of this process alone, which say more on a machine that others use. Peers:

- *FastStream, per message*: its own subscriber, acknowledged after each message, with an equal inbox: one transaction
  holds the claim and the row. (Without an inbox it doubles its rows when it dies; that figure is shown for comparison.)
- *aiokafka getmany*: batches of 200, each read into an event and written in one transaction, offsets committed after
  it: what a batch costs without an inbox.
"""

import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage
from sqlalchemy import create_engine

from infra.kafka import topics
from infra.local.stack import Stack
from shared.contracts.envelope import Envelope, new_id
from shared.contracts.events import FeedbackRecorded, PredictionServed
from shared.delivery import inbox, schema
from shared.delivery.bus import EventRouter, Work, make_broker, make_producer, make_router
from shared.delivery.intake import take
from shared.delivery.kafka import broker_connection, connection
from shared.delivery.relay import Relay
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.telemetry import logs

MESSAGES, SLOW_MESSAGES, SATURATED, SINGLE = 20_000, 2_000, 5_000, 200
TODAY = 85
_EFFECT = "INSERT INTO effects SELECT * FROM unnest(%s::text[], %s::text[], %s::float[])"


@dataclass(frozen=True)
class Figure:
    """One line of the table. `goal` is the least it should be, or (`most`) the most; None: for comparison."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    most: bool = False
    per_cpu: float | None = None

    @property
    def missed(self) -> bool:
        if self.goal is None:
            return False
        return self.value > self.goal if self.most else self.value < self.goal

    def line(self) -> str:
        goal = "" if self.goal is None else f"{'≤' if self.most else '≥'} {self.goal:,.6g}"
        per_cpu = "" if self.per_cpu is None else f"{self.per_cpu:,.0f}"
        verdict = "" if self.goal is None else ("MISSED" if self.missed else "ok")
        return f"{self.name:<58} {self.value:>12,.2f} {self.unit:<6} {per_cpu:>10} {goal:>12}  {verdict}"


@dataclass
class Bench:
    """A stack with a full topic, and what was measured so far."""

    stack: Stack
    rates: dict[str, float] = field(default_factory=dict)
    _numbers: int = 0

    @property
    def settings(self) -> DeliverySettings:
        return DeliverySettings(**self.stack.site.kafka("admin").model_dump())

    async def database(self, service: str = "monitor") -> Database:
        """The service's own database, with the kernel's tables and one for effects, all empty."""
        url = self.stack.site.database_url(service)
        await asyncio.to_thread(_migrated, url)
        db = Database(service, url)
        async with db.unit_of_work() as work:
            await work.execute(
                "CREATE TABLE IF NOT EXISTS effects (answer_id text, model text, latency float)"
            )
            await work.execute("TRUNCATE effects, inbox, outbox")
        return db

    def group(self) -> str:
        self._numbers += 1
        return f"bench-{self._numbers}"


def _migrated(url: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        schema._upgrade(connection, Path(schema.__file__).parent / "migrations", "kernel_version")
        schema._procrastinate(connection)
    engine.dispose()


class Meter:
    """Counts what was handled, between the first and the last of `wanted`."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._count = 0
        self._done = asyncio.Event()

    def tick(self, number: int = 1) -> None:
        if not self._count:
            self._first, self._cpu = time.perf_counter(), _cpu()
            self._skipped = number
        self._count += number
        if self._count >= self._wanted and not self._done.is_set():
            self._last, self._cpu = time.perf_counter(), _cpu() - self._cpu
            self._done.set()

    async def rates(self) -> tuple[float, float]:
        """Messages a second, and a CPU second of this process; what came first was not timed."""
        async with asyncio.timeout(900):
            await self._done.wait()
        timed = self._count - self._skipped
        return timed / (self._last - self._first), timed / self._cpu


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def served(number: int) -> PredictionServed:
    return PredictionServed(
        answer_id=f"answer-{number:06}",
        model="bench",
        model_version=3,
        engine_name="bench-v3",
        arm="champion",
        outcome="ok",
        latency_ms=12.5 + number % 50,
        prompt_tokens=20,
        completion_tokens=8,
        served_at=datetime.now(UTC),
    )


async def fill(bench: Bench) -> None:
    topic = topics.Topic(PredictionServed.topic, 3)
    await topics.ensure(bench.settings, [topic, topics.Topic(f"{topic.name}.monitor.dlq", 1)])
    producer = AIOKafkaProducer(**connection(bench.settings), linger_ms=20)
    await producer.start()
    futures = []
    for number in range(MESSAGES):
        event, name = served(number), new_id()
        envelope = Envelope(name, "/serving", event.ce_type(), datetime.now(UTC), correlationid=name)
        headers = [(key, value.encode()) for key, value in envelope.headers()]
        body, key = event.model_dump_json().encode(), event.partition_key().encode()
        futures.append(await producer.send(event.topic, body, key, headers=headers, partition=number % 3))
    await asyncio.gather(*futures)
    await producer.stop()


async def effect(work: UnitOfWork, events: Sequence[PredictionServed]) -> None:
    columns = [[e.answer_id for e in events], [e.model for e in events], [e.latency_ms for e in events]]
    await (await work.raw()).execute(_EFFECT, columns)


async def ours(
    bench: Bench, declare: Callable[[EventRouter, Meter], None], wanted: int
) -> tuple[float, float]:
    db, meter, router = await bench.database(), Meter(wanted), make_router("monitor")
    declare(router, meter)
    broker = make_broker(bench.settings, db, "monitor", [router])
    for consumer in broker.consumers.values():
        consumer.group_id = bench.group()
    await broker.start()
    rates = await meter.rates()
    await broker.stop()
    await db.close()
    return rates


async def batch_subscriber(bench: Bench) -> list[Figure]:
    def declare(router: EventRouter, meter: Meter) -> None:
        @router.on_batch(PredictionServed)
        async def on_prediction_served(events: list[PredictionServed], work: Work) -> None:
            await effect(work, events)
            meter.tick(len(events))

    rate, per_cpu = await ours(bench, declare, MESSAGES)
    bench.rates["batch"] = rate
    return [Figure("batch subscriber, with inbox", rate, "msg/s", 2_000, per_cpu=per_cpu)]


async def ordinary_subscriber(bench: Bench) -> list[Figure]:
    def declare(router: EventRouter, meter: Meter) -> None:
        @router.on(PredictionServed)
        async def on_prediction_served(event: PredictionServed, work: Work) -> None:
            await effect(work, [event])
            meter.tick()

    rate, per_cpu = await ours(bench, declare, SLOW_MESSAGES)
    return [Figure("ordinary subscriber, with inbox", rate, "msg/s", 3 * TODAY, per_cpu=per_cpu)]


async def faststream_per_message(bench: Bench) -> list[Figure]:
    figures = []
    for claims in (True, False):
        db, meter = await bench.database(), Meter(SLOW_MESSAGES)
        broker = KafkaBroker(**broker_connection(bench.settings), logger=None)
        await _subscribe(broker, bench.group(), db, meter, claims=claims).start()
        rate, per_cpu = await meter.rates()
        await broker.stop()
        await db.close()
        name = f"  peer: FastStream, per message, {'an equal' if claims else 'no'} inbox"
        figures.append(Figure(name, rate, "msg/s", per_cpu=per_cpu))
        if claims and "batch" in bench.rates:
            ratio = bench.rates["batch"] / rate
            figures.append(Figure("batch subscriber / FastStream, per message", ratio, "x", 10))
    return figures


def _subscribe(broker: KafkaBroker, group: str, db: Database, meter: Meter, *, claims: bool) -> KafkaBroker:
    @broker.subscriber(
        PredictionServed.topic,
        group_id=group,
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )
    async def on_prediction_served(event: PredictionServed, message: KafkaMessage) -> None:
        async with db.unit_of_work() as work:
            if claims:
                assert not isinstance(message.raw_message, tuple)
                delivery, _ = take(message.raw_message, datetime.now(UTC))
                if not await inbox.claim(work, delivery, 1):
                    return
            await effect(work, [event])
        meter.tick()

    return broker


async def aiokafka_getmany(bench: Bench) -> list[Figure]:
    db, meter = await bench.database(), Meter(MESSAGES)
    consumer = AIOKafkaConsumer(
        PredictionServed.topic,
        **connection(bench.settings),
        group_id=bench.group(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()

    async def consume() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=500, max_records=200)).values():
                events = [PredictionServed.model_validate_json(record.value) for record in records]
                async with db.unit_of_work() as work:
                    await effect(work, events)
                meter.tick(len(events))
            await consumer.commit()

    task = asyncio.create_task(consume())
    rate, per_cpu = await meter.rates()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await consumer.stop()
    await db.close()
    figures = [Figure("  peer: aiokafka getmany, no inbox", rate, "msg/s", per_cpu=per_cpu)]
    if "batch" in bench.rates:
        figures.append(Figure("batch subscriber / aiokafka getmany", bench.rates["batch"] / rate, "x", 0.6))
    return figures


async def commit_to_handling(bench: Bench) -> list[Figure]:
    """From the commit in one service to the handling in the next: single events, an idle system."""
    sender, receiver, router = await bench.database("serving"), await bench.database(), make_router("monitor")
    handled: dict[str, float] = {}

    @router.on(FeedbackRecorded)
    async def on_feedback_recorded(event: FeedbackRecorded, work: Work) -> None:
        handled[event.feedback_id] = time.perf_counter()

    relay = asyncio.create_task(
        Relay("serving", sender.url, lambda: make_producer(bench.settings, "serving")).run()
    )
    broker = make_broker(bench.settings, receiver, "monitor", [router])
    await broker.start()
    latencies = []
    for number in range(SINGLE + 1):
        name = f"l-{number}"
        event = FeedbackRecorded(feedback_id=name, answer_id=name, model="bench", score=1, actor="bench")
        async with sender.unit_of_work() as work:
            work.emit(event)
        committed = time.perf_counter()
        while name not in handled:
            await asyncio.sleep(0.0005)
        latencies.append((handled[name] - committed) * 1_000)
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    await broker.stop()
    await sender.close()
    await receiver.close()
    latencies = sorted(latencies[1:])
    return [
        Figure("commit to handling, idle, p50", statistics.median(latencies), "ms"),
        Figure("commit to handling, idle, p99", latencies[int(SINGLE * 0.99)], "ms"),
    ]


Row = Callable[[Bench], Awaitable[list[Figure]]]
ROWS: list[Row] = [
    batch_subscriber,
    faststream_per_message,
    aiokafka_getmany,
    ordinary_subscriber,
    commit_to_handling,
]


async def measure(stack: Stack, wanted: Sequence[str]) -> bool:
    """Print the figures of the rows; False if a goal is missed."""
    bench = Bench(stack)
    await fill(bench)
    print(f"{'figure':<58} {'value':>12} {'':<6} {'msg/CPU s':>10} {'goal':>12}")
    missed = False
    for row in ROWS:
        if not wanted or row.__name__ in wanted:
            for figure in await row(bench):
                print(figure.line(), flush=True)
                missed |= figure.missed
    return not missed


def main() -> None:
    names = {row.__name__ for row in ROWS}
    if unknown := set(sys.argv[1:]) - names:
        sys.exit(f"There is no row {', '.join(unknown)}: one of {', '.join(sorted(names))}.")
    os.sched_setaffinity(
        0, {min(os.sched_getaffinity(0))}
    )  # the consumer; Kafka and PostgreSQL take the others
    logs.configure("bench", "WARNING")
    with tempfile.TemporaryDirectory(prefix="driftwheel-bench-") as home, Stack(Path(home)) as stack:
        stack.start("kafka", "postgres")
        os.sched_setaffinity(
            0, {min(os.sched_getaffinity(0))}
        )  # the consumer; Kafka and PostgreSQL take the others
        good = asyncio.run(measure(stack, sys.argv[1:]))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
