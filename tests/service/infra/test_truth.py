"""What people are told of a stack in which a service runs and consumes nothing: `status`, `doctor` and its probes agree."""

import asyncio
import time
from collections.abc import Callable

from aiokafka import AIOKafkaProducer

from infra.local import commands, doctor
from infra.local.stack import Stack
from services.console.commands.stack import rows
from shared.delivery.kafka import connection
from tests.conftest import KafkaBroker, PostgresServer, S3Store

JUNK, TOPIC = 60, "model.trained"


def until(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.2)


async def send_junk(stack: Stack) -> None:
    producer = AIOKafkaProducer(**connection(stack.site.kafka("trainer")))
    await producer.start()
    try:
        for number in range(JUNK):
            await producer.send_and_wait(TOPIC, b"\x00 no event %d" % number, key=b"k")
    finally:
        await producer.stop()


def state_of(stack: Stack, part: str) -> str:
    return str(commands.status(home=stack.home)["parts"][part]["state"])


def test_a_service_whose_consumer_stopped_is_nowhere_called_well(
    stack: Stack, kafka: KafkaBroker, postgres: PostgresServer, s3: S3Store
) -> None:
    stack.start("registry")
    until(lambda: state_of(stack, "registry") == "ready", "registry is well")
    restarts = stack.snapshot()["parts"]["registry"]["restarts"]
    asyncio.run(send_junk(stack))
    until(lambda: state_of(stack, "registry") == "degraded", "the stopped consumer is seen")
    found = commands.status(home=stack.home)
    assert found["state"] == "degraded"
    assert f"consumer {TOPIC}: stopped" in found["parts"]["registry"]["detail"]
    [line] = [row for row in rows(found) if row[0] == "registry"]
    assert "✓" not in line[1]
    assert f"consumer {TOPIC}: stopped" in line[-1]
    told = next(check for check in doctor.examine(stack.settings) if check.name == "registry")
    assert "driftwheel consumers resume registry" in told.mend
    assert (
        stack.snapshot()["parts"]["registry"]["restarts"] == restarts
    )  # a restart would bury the next fifty
    stack.restart("registry")
    until(lambda: state_of(stack, "registry") == "ready", "it reads again")
