"""The history of a real platform: what Kafka, the six databases and the clients know at the end of a run."""

import asyncio
import json
import uuid
from collections.abc import Hashable, Iterable
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from psycopg.rows import dict_row

from infra.local.credentials import SERVICES
from infra.local.stack import Stack
from shared.contracts.topology import CONSUMERS
from shared.delivery.kafka import connection
from tests.chaos.history import Handled, History, Promotion, Record, Said

FACTS = {
    "dataset.ready": ("model", "digest"),
    "model.trained": ("run_id",),
    "model.evaluated": ("evaluation_id",),
    "model.approved": ("model", "model_version"),
    "rollout.changed": ("rollout_id", "state", "step"),
    "prediction.served": ("answer_id",),
    "feedback.recorded": ("feedback_id",),
    "drift.detected": ("drift_id",),
}
"""What may be announced once. A promotion is state: it is said again."""
_CHAMPIONS = {
    "serving": "SELECT name, champion_version FROM logical_model WHERE champion_version IS NOT NULL",
    "monitor": "SELECT DISTINCT ON (model) model, model_version FROM promotion ORDER BY model, sequence DESC",
}


def rows(stack: Stack, service: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(stack.site.database_url(service), row_factory=dict_row) as connection_:
        return connection_.execute(query).fetchall()


async def records(stack: Stack) -> list[tuple[Record, str | None]]:
    """Every record of the event topics, from the beginning to where they end now, and the request that it answers."""
    reader = AIOKafkaConsumer(
        *CONSUMERS, **connection(stack.site.kafka("admin")), auto_offset_reset="earliest", group_id=None
    )
    await reader.start()
    found = []
    try:
        ends = await reader.end_offsets(list(reader.assignment()))
        for partition, end in ends.items():
            while await reader.position(partition) < end:
                for batch in (await reader.getmany(partition, timeout_ms=1_000, max_records=2_000)).values():
                    found += [_record(record) for record in batch]
    finally:
        await reader.stop()
    return found


def _record(record: Any) -> tuple[Record, str | None]:
    told = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
    try:
        payload = json.loads(record.value or b"")
    except ValueError:
        payload = {}
    names = FACTS.get(record.topic, ())
    whole = isinstance(payload, dict) and all(name in payload for name in names)
    fact: Hashable = tuple(str(payload[name]) for name in names) if names and whole else None
    place = f"{record.topic}/{record.partition}/{record.offset}"
    source, number = told.get("ce_source", "/foreign"), told.get("ce_id", place)
    answers = payload.get("idempotency_key") if whole and record.topic == "training.status" else None
    return Record(record.topic, record.partition, record.offset, source, number, record.key, fact), answers


async def committed(stack: Stack) -> dict[tuple[str, str, int], int]:
    admin = AIOKafkaAdminClient(**connection(stack.site.kafka("admin")))
    await admin.start()
    found: dict[tuple[str, str, int], int] = {}
    try:
        for topic, services in CONSUMERS.items():
            for service in services:
                offsets = await admin.list_consumer_group_offsets(f"{service}.{topic}")
                found |= {(service, place.topic, place.partition): at.offset for place, at in offsets.items()}
    finally:
        await admin.close()
    return found


def said(stack: Stack) -> list[Said]:
    found: list[Said] = []
    for service in SERVICES:
        sent = rows(stack, service, 'SELECT event_id, topic, partition, "offset" FROM sent')
        found += [_said(service, row, (row["partition"], row["offset"])) for row in sent]
        found += [
            _said(service, row, None) for row in rows(stack, service, "SELECT event_id, topic FROM outbox")
        ]
    return [one for one in found if one.topic in CONSUMERS]


def _said(service: str, row: dict[str, Any], place: tuple[int, int] | None) -> Said:
    return Said(service, row["topic"], row["event_id"], uuid.UUID(row["event_id"]).int >> 80, place)


def handled(stack: Stack) -> list[Handled]:
    query = 'SELECT topic, source, event_id, partition, "offset", state, handled_at FROM inbox'
    return [
        Handled(service, r["topic"], r["source"], r["event_id"], r["partition"], r["offset"], r["state"], r["handled_at"])
        for service in SERVICES
        for r in rows(stack, service, query)
    ]  # fmt: skip


def waiting(stack: Stack) -> dict[str, int]:
    """Rows of each outbox that are not sent."""
    query = "SELECT count(*) AS number FROM outbox WHERE dead_at IS NULL"
    return {service: rows(stack, service, query)[0]["number"] for service in SERVICES}


async def behind(stack: Stack) -> dict[str, int]:
    """Records that each group has not handled."""
    at = await committed(stack)
    reader = AIOKafkaConsumer(**connection(stack.site.kafka("admin")), group_id=None)
    await reader.start()
    try:
        partitions = [TopicPartition(t, p) for t in CONSUMERS for p in reader.partitions_for_topic(t) or ()]
        ends, starts = await asyncio.gather(
            reader.end_offsets(partitions), reader.beginning_offsets(partitions)
        )
    finally:
        await reader.stop()
    lags = {
        (service, place): end - at.get((service, place.topic, place.partition), starts[place])
        for place, end in ends.items()
        for service in CONSUMERS[place.topic]
    }
    return {
        f"{service} {place.topic}/{place.partition}": lag for (service, place), lag in lags.items() if lag > 0
    }


async def history(stack: Stack, accepted: dict[str, Iterable[Hashable]], asked: Iterable[str]) -> History:
    """Everything, once nothing moves any more."""
    trail = rows(stack, "registry", "SELECT model, sequence, version, alias FROM alias_event")
    champions = {
        (service, name): version
        for service, query in _CHAMPIONS.items()
        for name, version in (tuple(row.values()) for row in rows(stack, service, query))
    }
    found = await records(stack)
    return History(
        consumers=CONSUMERS,
        records=[record for record, _ in found],
        handled=handled(stack),
        said=said(stack),
        committed=await committed(stack),
        accepted=accepted,
        asked=asked,
        answered={key for _, key in found if key},
        promotions=[Promotion(**row) for row in trail],
        champions=champions,
    )
