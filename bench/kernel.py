"""`python -m bench.kernel`: what delivery costs, on real Kafka and PostgreSQL of this machine.

Prints one JSON object: outbox messages per second (rows committed beforehand, saturated relay), messages handled per
second (inbox and effect in one transaction each), and milliseconds from the commit in one service to the commit of its
handling in the next (single events, idle system). Figures of a shared machine: compare within one run only.
"""

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from infra.local.stack import Stack
from shared.contracts.events import FeedbackRecorded
from shared.delivery import schema
from shared.delivery.bus import Work, make_broker, make_producer, make_router
from shared.delivery.relay import Relay
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database

SATURATED = 5_000
SINGLE = 200


def fresh(url: str) -> str:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        schema._upgrade(connection, Path(schema.__file__).parent / "migrations", "kernel_version")
        schema._procrastinate(connection)
    engine.dispose()
    return url


def feedback(name: str) -> FeedbackRecorded:
    return FeedbackRecorded(feedback_id=name, answer_id=name, model="bench", score=1, actor="bench")


async def measure(stack: Stack) -> dict[str, Any]:
    settings = DeliverySettings(**stack.site.kafka("admin").model_dump())
    sender = Database("serving", fresh(stack.site.database_url("serving")))
    receiver = Database("monitor", fresh(stack.site.database_url("monitor")))
    handled: dict[str, float] = {}
    router = make_router("monitor")

    @router.on(FeedbackRecorded)
    async def on_feedback_recorded(event: FeedbackRecorded, work: Work) -> None:
        handled[event.feedback_id] = time.perf_counter()

    async def all_sent() -> bool:
        async with sender.unit_of_work() as work:
            return bool((await work.execute("SELECT count(*) = 0 FROM outbox")).scalar())

    for start in range(0, SATURATED, 500):
        async with sender.unit_of_work() as work:
            for number in range(start, start + 500):
                work.emit(feedback(f"s-{number}"))
    relay = asyncio.create_task(
        Relay("serving", sender.url, lambda: make_producer(settings, "serving")).run()
    )
    while not await all_sent():
        await asyncio.sleep(0.02)
    async with sender.unit_of_work() as work:
        span = await work.execute("SELECT extract(epoch FROM max(sent_at) - min(sent_at)) FROM sent")
        sending = float(span.scalar_one())
    broker = make_broker(settings, receiver, "monitor", [router])
    await broker.start()
    while len(handled) < SATURATED:
        await asyncio.sleep(0.02)
    handling = max(handled.values()) - min(handled.values())
    latencies = []
    for number in range(SINGLE):
        name = f"l-{number}"
        async with sender.unit_of_work() as work:
            work.emit(feedback(name))
        committed = time.perf_counter()
        while name not in handled:
            await asyncio.sleep(0.0005)
        latencies.append((handled[name] - committed) * 1_000)
    relay.cancel()
    await broker.stop()
    await asyncio.gather(relay, return_exceptions=True)
    await sender.close()
    await receiver.close()
    latencies.sort()
    return {
        "outbox_messages_per_second": round(SATURATED / sending) if sending else None,
        "handled_messages_per_second": round((SATURATED - 1) / handling),
        "commit_to_handling_ms_p50": round(statistics.median(latencies), 1),
        "commit_to_handling_ms_p99": round(latencies[int(SINGLE * 0.99)], 1),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="driftwheel-bench-") as home, Stack(Path(home)) as stack:
        stack.start("kafka", "postgres")
        print(json.dumps(asyncio.run(measure(stack)), indent=2))


if __name__ == "__main__":
    main()
