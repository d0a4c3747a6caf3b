"""Records straight from Kafka, read without a group: nobody's offsets move."""

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from infra.local.state import home
from services.console.door import LOOK, Exit, fail, stack_state
from shared.contracts.document import Json
from shared.contracts.envelope import repair_headers
from shared.delivery.settings import KafkaSettings

if TYPE_CHECKING:  # loaded where it is used: other commands start faster without it
    from aiokafka import AIOKafkaConsumer, TopicPartition

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SILENCE_SECONDS = 10.0
_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Sought:
    """What a record must have: each of the headers, and the id, and the text.

    Attributes:
        id: of the event or its story, the key, any other header's value, or a text at the top of the payload.
        text: anywhere in the payload, in either case.
    """

    headers: Mapping[str, str]
    id: str = ""
    text: str = ""

    def found(self, record: Any) -> bool:
        body: bytes = record.value or b""
        if self.text and self.text.casefold() not in _text(body).casefold():
            return False
        headers = repair_headers(record.headers)
        if any(headers.get(name) != value for name, value in self.headers.items()):
            return False
        return not self.id or self._has_id(headers, record.key or b"", body)

    def _has_id(self, headers: Mapping[str, str], key: bytes, body: bytes) -> bool:
        if self.id in headers.values() or self.id.encode() == key:
            return True
        if self.id.encode() not in body:  # reading all payloads as JSON would be slow
            return False
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            return False
        return isinstance(payload, dict) and self.id in payload.values()


def _text(body: bytes) -> str:
    """A payload as people read it: JSON may write its letters as \\u00fc."""
    if b"\\u" in body:
        try:
            return json.dumps(json.loads(body), ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    return body.decode("utf-8", "replace")


def since(text: str, now: datetime) -> datetime:
    """`90s`, `30m`, `2h`, `3d` before `now`, or an ISO time (UTC if it names no zone). Raises ValueError."""
    if match := re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip()):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    at = datetime.fromisoformat(text.strip())
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def kafka() -> KafkaSettings:
    """How the command line reaches Kafka: the user's own, or the local stack's as `console`, which may only read."""
    from infra.local.environment import kafka_account
    from infra.local.settings import LocalSettings

    if own := LocalSettings().own_kafka:
        return own
    found = stack_state().get("urls", {}).get("kafka")
    if not found:
        fail(
            Exit.UNAVAILABLE,
            "No Kafka is known here.",
            "Start one: driftwheel up. Or set DRIFTWHEEL_KAFKA_BOOTSTRAP.",
        )
    passwords = json.loads((home() / "secrets" / "credentials.json").read_text())["kafka"]
    return kafka_account(str(found), "console", passwords["console"])


@asynccontextmanager
async def reader(*topics: str, newest: bool = False) -> AsyncIterator["AIOKafkaConsumer"]:
    """A consumer without a group; Kafka that does not answer, or refuses us, ends the command."""
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import KafkaError

    from shared.delivery.kafka import connection, trouble

    settings = kafka()
    consumer = AIOKafkaConsumer(
        *topics,
        **connection(settings),
        group_id=None,
        auto_offset_reset="latest" if newest else "earliest",
    )
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        why = await trouble(settings) or f"Kafka at {settings.kafka_bootstrap} does not answer: {error}."
        fail(Exit.UNAVAILABLE, why, LOOK)
    finally:
        await consumer.stop()


async def past(
    topics: Sequence[str], start: datetime | None, progress: Callable[[int, int], None]
) -> AsyncGenerator[Any, None]:
    """The records that are in these topics now, from `start` or from the first that is kept.

    What arrives meanwhile is not read, so this ends.

    Args:
        progress: told how many offsets are done, and of how many.
    """
    async with reader() as consumer:
        places, ends = await _range(consumer, await _partitions(topics), start)
        total = sum(ends[p] - at for p, at in places.items())
        consumer.assign(list(places))
        for partition, offset in places.items():
            consumer.seek(partition, offset)
        heard = time.monotonic()
        while places:
            found: dict[TopicPartition, list[Any]] = await consumer.getmany(
                *places, timeout_ms=500, max_records=_BATCH
            )
            for partition, records in found.items():
                for record in records:
                    if record.offset < ends[partition]:
                        yield record
            places = {p: at for p in places if (at := await consumer.position(p)) < ends[p]}
            progress(total - sum(ends[p] - at for p, at in places.items()), total)
            heard = time.monotonic() if found else heard
            if time.monotonic() - heard > _SILENCE_SECONDS:
                fail(Exit.UNAVAILABLE, "Kafka fell silent before the end.", LOOK)


async def _partitions(topics: Sequence[str]) -> "list[TopicPartition]":
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient

    from shared.delivery.kafka import connection

    admin = AIOKafkaAdminClient(**connection(kafka()))
    await admin.start()
    try:
        if missing := sorted(set(topics) - set(await admin.list_topics())):
            fail(Exit.USAGE, f"There is no topic {missing[0]}.", "Example: --topic model.promoted")
        described = await admin.describe_topics(sorted(set(topics)))
    finally:
        await admin.close()
    return [TopicPartition(t["topic"], p["partition"]) for t in described for p in t["partitions"]]


async def _range(
    consumer: "AIOKafkaConsumer", partitions: "list[TopicPartition]", start: datetime | None
) -> "tuple[dict[TopicPartition, int], dict[TopicPartition, int]]":
    """Where to begin in each partition that has something to read, and where each ends."""
    ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
    places: dict[TopicPartition, int] = await consumer.beginning_offsets(partitions)
    if start is not None:
        later = await consumer.offsets_for_times(
            dict.fromkeys(partitions, max(0, int(start.timestamp() * 1_000)))
        )
        places = {p: at.offset for p, at in later.items() if at is not None}
    return {p: at for p, at in places.items() if at < ends[p]}, ends


def document(record: Any) -> Json:
    """A record for programs: `body` is the document that it holds, or text if it holds none."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "headers": repair_headers(record.headers),
        "body": _body(record.value or b""),
    }


def _body(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "backslashreplace")
