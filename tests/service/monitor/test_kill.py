"""The monitor as a process of its own, on real Kafka: killed in the middle of a measurement, told everything twice."""

import json
import random
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from joserfc.jwk import OKPKey

from infra.local.credentials import event_key
from infra.local.stack import Stack
from shared.artifacts.objects import S3Objects
from shared.artifacts.signing import FileSigner
from shared.contracts.events import Event
from shared.delivery.outbox import Outgoing, outgoing
from shared.http.tokens import mint
from tests.conftest import KafkaBroker
from tests.kit import caused
from tests.loop import Platform, until
from tests.service.monitor import events
from tests.service.monitor.conftest import TRAVEL, log_texts, prompts
from tests.service.monitor.events import declared, promoted, scored, served

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1_800)]
MODEL = "killed"


async def told(client: dict[str, Any], messages: list[Outgoing]) -> None:
    async with AIOKafkaProducer(**client) as producer:
        for one in messages:
            await producer.send_and_wait(one.topic, one.body, one.key, headers=one.headers)


async def test_killed_in_the_middle_of_a_measurement_it_speaks_once(
    stack: Stack, kafka: KafkaBroker, admin_objects: S3Objects, dataset: str
) -> None:
    stack.start("monitor")
    ids = [f"{MODEL}-{n}" for n in range(events.WINDOW)]
    places = await log_texts(admin_objects, ids, random.Random(1).sample(prompts(TRAVEL), events.WINDOW))
    answers = [served(i, place, model=MODEL) for i, place in zip(ids, places, strict=True)]
    registry = FileSigner(stack.home / "secrets" / event_key("registry"))

    def message(event: Event) -> Outgoing:
        return outgoing(event, caused(event), signer=registry)

    sound = served(f"{MODEL}-nan", model=MODEL)
    poison = json.dumps(sound.model_dump(mode="json") | {"latency_ms": float("nan")}).encode()
    messages = [
        *(message(scored(answer, 0.0)) for answer in answers),
        replace(message(sound), body=poison),
        *(message(answer) for answer in answers),
        message(promoted(dataset, model=MODEL)),
        message(declared(model=MODEL)),
    ]
    await told(kafka.client(), messages)

    key = OKPKey.import_key(json.loads((stack.home / "secrets" / "signing-key.json").read_text()))
    headers = {"authorization": f"Bearer {mint(key, 'tester', ['monitor:read'], 3_600)}"}
    async with httpx2.AsyncClient(base_url=stack.urls["monitor"], headers=headers, timeout=10) as http:

        async def get(path: str, **params: Any) -> Any:
            try:
                return (await http.get(path, params=params)).raise_for_status().json()
            except (httpx2.TransportError, httpx2.HTTPStatusError):
                return None

        async def in_state(state: str) -> bool:
            found = await get("/windows", model=MODEL)
            return bool(found) and [window["state"] for window in found["windows"]] == [state]

        await until(lambda: in_state("measuring"), "a window to be cut", pause=0.02)
        stack.kill("monitor")
        await told(kafka.client(), messages)  # all of it again, while it is away
        await until(lambda: in_state("measured"), "the window to be measured after the restart", 900)

        async def drifts() -> Any:
            return (await get("/drifts", model=MODEL) or {}).get("drifts")

        [drift] = await until(drifts, "the verdict")
        assert drift["verdict"] == "retrain"

        async def buried() -> bool:
            """Both poison messages; what cannot be read is named by its place, so each is a letter of its own."""
            found = (await get("/dead-letters") or {"dead_letters": []})["dead_letters"]
            mine = [one for one in found if one["topic"] == "prediction.served" and "NaN" in one["error"]]
            return len(mine) >= 2

        await until(buried, "the dead letters")

    async def all_read() -> bool:
        return all(
            [await caught_up(kafka.client("monitor"), topic) for topic in {one.topic for one in messages}]
        )

    await until(all_read, "all that was told twice to be read", 300)
    assert await announced(stack) == [drift["event_id"]]


async def caught_up(client: dict[str, Any], topic: str) -> bool:
    """The monitor's group has committed everything there is on a topic."""
    consumer = AIOKafkaConsumer(**client, group_id=f"monitor.{topic}", enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        return all([(await consumer.committed(p) or 0) >= end for p, end in ends.items()])
    finally:
        await consumer.stop()


async def announced(stack: Stack) -> list[str]:
    platform = Platform(stack)
    try:
        return await platform.events("drift.detected", MODEL)
    finally:
        await platform.http.aclose()
