"""Deliver records of the past again: what was handled has no effect, because the inbox knows it.

A plan says what a replay would bring, before anything moves. A rewind moves this process's own consumers back.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.artifacts.signing import Trust
from shared.contracts.errors import Conflict, DriftwheelError, Invalid, Unavailable
from shared.contracts.text import Json
from shared.delivery import inbox
from shared.delivery.bus import EventBroker
from shared.delivery.intake import take, unread
from shared.delivery.kafka import connection
from shared.delivery.retention import remembered_since
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database

MOST_RECORDS = 100_000
MOST_SECONDS = 20.0
_SILENCE_SECONDS = 2.0
_BATCH = 1_000
_PLACE = re.compile(r"([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,18})")
_NARROWER = "Begin later, or name fewer topics: --from, --topic."
_STATES = "SELECT topic, source, event_id, state FROM inbox WHERE event_id = ANY(%s)"

Offsets = dict[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a replay begins: at a time in every partition, or at one place."""

    time: datetime | None = None
    place: tuple[TopicPartition, int] | None = None

    @classmethod
    def of(cls, text: str) -> "Start":
        """`2026-11-25T14:00:00Z` (UTC if it names no zone) or `topic/partition/offset`. Raises Invalid."""
        if match := _PLACE.fullmatch(text):
            return cls(place=(TopicPartition(match[1], int(match[2])), int(match[3])))
        try:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            at.timestamp()
        except (ValueError, OverflowError) as error:
            raise Invalid(
                "The start is neither a time nor a place.",
                "Give 2026-11-25T14:00:00Z or topic/partition/offset.",
            ) from error
        return cls(time=at)


@dataclass(slots=True)
class Plan:
    """What a replay brings again: from where to where, and what the inbox knows of it.

    `ends` are the committed offsets: what follows them is delivered anyway.
    """

    starts: Offsets
    ends: Offsets
    known: dict[str, Counter[str]] = field(default_factory=dict)

    def to_json(self) -> Json:
        topics = []
        for topic in sorted({partition.topic for partition in self.starts}):
            found = self.known.get(topic, Counter())
            topics.append(
                {
                    "topic": topic,
                    "records": found.total(),
                    "done": found["done"],
                    "dead": found["dead"],
                    "redriven": found["redriven"],
                    "unknown": found["unknown"],
                    "partitions": [
                        {"partition": p.partition, "from": start, "to": self.ends[p]}
                        for p, start in sorted(self.starts.items())
                        if p.topic == topic
                    ],
                }
            )
        return {
            "topics": topics,
            "records": sum(topic["records"] for topic in topics),
            "new_effects": sum(topic["unknown"] for topic in topics),
        }


class Replay:
    """Plans and rewinds, one at a time; reads over connections of its own."""

    def __init__(self, service: str, broker: EventBroker, settings: DeliverySettings) -> None:
        self._service = service
        self._consumers = broker.consumers
        self._connection = connection(settings)
        self._busy = asyncio.Lock()

    async def replay(self, db: Database, start: Start, topics: Sequence[str], *, dry_run: bool) -> Json:
        """What would come again; unless it is a dry run, it does.

        Partitions that other processes of the service consume stay where they are and are named in `elsewhere`.

        Raises:
            Invalid: a topic this service does not consume, or more records than a replay may bring.
            Conflict: another replay is being prepared, or consumption has stopped.
            Unavailable: Kafka did not answer, or not in time.
        """
        self._check(start, topics)
        if self._busy.locked():
            raise Conflict("Another replay is being prepared here.", "Wait for it.")
        async with self._busy:
            try:
                async with asyncio.timeout(MOST_SECONDS):
                    plan = await self._plan(db, start, topics)
            except TimeoutError as error:
                raise Unavailable(f"Reading took more than {MOST_SECONDS:.0f} s.", _NARROWER) from error
            except (KafkaError, OSError) as error:
                raise Unavailable(
                    f"Kafka does not answer ({type(error).__name__}).", "Look: driftwheel status."
                ) from error
            here, elsewhere = self._divided(plan)
            if not dry_run:
                for partition in here:
                    self._consumers[partition.topic].rewind(partition, plan.starts[partition])
        return {
            "service": self._service,
            "dry_run": dry_run,
            **plan.to_json(),
            "here": [f"{p.topic}/{p.partition}" for p in here],
            "elsewhere": [f"{p.topic}/{p.partition}" for p in elsewhere],
        }

    def _check(self, start: Start, topics: Sequence[str]) -> None:
        asked = {*topics, *([start.place[0].topic] if start.place else [])}
        if asked - set(self._consumers):
            raise Invalid(
                f"{self._service} does not consume one of these topics.",
                f"It consumes {', '.join(sorted(self._consumers)) or 'none'}.",
            )
        stopped = [
            self._consumers[t] for t in asked or self._consumers if self._consumers[t].state.name == "stopped"
        ]
        if stopped:
            raise Conflict(
                f"The consumer of {stopped[0].topic} has stopped here.",
                "Mend the cause and resume it first: driftwheel consumers resume.",
            )

    def _divided(self, plan: Plan) -> tuple[list[TopicPartition], list[TopicPartition]]:
        """Partitions that this process consumes, and those that it does not."""
        ours: set[TopicPartition] = set()
        for consumer in self._consumers.values():
            ours |= consumer.assigned
        wanted = sorted(plan.starts)
        return [p for p in wanted if p in ours], [p for p in wanted if p not in ours]

    async def _plan(self, db: Database, start: Start, topics: Sequence[str]) -> Plan:
        async with self._connected() as (admin, reader):
            if start.place:
                partitions = [start.place[0]]
            else:
                partitions = await _partitions(admin, topics or list(self._consumers))
            ends = await self._committed(admin, partitions)
            starts = await _starts(reader, start, list(ends))
            plan = Plan({p: at for p, at in starts.items() if at < ends[p]}, ends)
            total = sum(ends[p] - at for p, at in plan.starts.items())
            if total > MOST_RECORDS:
                raise Invalid(
                    f"{total:,} records lie between; a replay brings at most {MOST_RECORDS:,}.", _NARROWER
                )
            async with db.unit_of_work() as work:
                since = await remembered_since(work)
            async for topic, records in _read(reader, plan, since, db.trust):
                plan.known.setdefault(topic, Counter()).update(await _states(db, records))
        return plan

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[AIOKafkaAdminClient, AIOKafkaConsumer]]:
        name = f"{self._service}-replay"
        admin = AIOKafkaAdminClient(**self._connection, client_id=name)
        reader = AIOKafkaConsumer(
            **self._connection,
            client_id=name,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            await admin.start()
            await reader.start()
            yield admin, reader
        finally:
            await reader.stop()
            await admin.close()

    async def _committed(self, admin: AIOKafkaAdminClient, partitions: Collection[TopicPartition]) -> Offsets:
        """What each partition's group has committed; a partition without a commit has nothing to replay."""
        found: Offsets = {}
        for topic in {partition.topic for partition in partitions}:
            kept: Mapping[TopicPartition, Any] = await admin.list_consumer_group_offsets(
                self._consumers[topic].group_id
            )
            found |= {p: meta.offset for p, meta in kept.items() if p in partitions and meta.offset >= 0}
        return found


async def _partitions(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> list[TopicPartition]:
    described = await admin.describe_topics(sorted(set(topics)))
    return [TopicPartition(t["topic"], p["partition"]) for t in described for p in t["partitions"]]


async def _starts(reader: AIOKafkaConsumer, start: Start, partitions: list[TopicPartition]) -> Offsets:
    """The first offset of each partition that comes again; none where nothing is so new, or kept so long."""
    if not partitions:
        return {}
    kept: Offsets = await reader.beginning_offsets(partitions)
    if start.place:
        partition, offset = start.place
        return {partition: max(offset, kept[partition])}
    assert start.time is not None
    at = max(0, int(start.time.timestamp() * 1_000))
    found = await reader.offsets_for_times(dict.fromkeys(partitions, at))
    return {p: max(place.offset, kept[p]) for p, place in found.items() if place is not None}


async def _read(
    reader: AIOKafkaConsumer, plan: Plan, since: datetime | None, trust: Trust
) -> AsyncIterator[tuple[str, list[inbox.Identity]]]:
    """The identities of the records between the offsets of a plan, in batches of one topic.

    Raises:
        Unavailable: Kafka fell silent before the end: a plan must not miss anything.
        Invalid: a record is older than what the inbox remembers.
    """
    if not plan.starts:
        return
    reader.assign(list(plan.starts))
    for partition, offset in plan.starts.items():
        reader.seek(partition, offset)
    unread = dict(plan.starts)
    heard = time.monotonic()
    while unread:
        found: dict[TopicPartition, list[Any]] = await reader.getmany(
            *unread, timeout_ms=500, max_records=_BATCH
        )
        for partition, records in found.items():
            wanted = [record for record in records if record.offset < plan.ends[partition]]
            if since and any(record.timestamp < since.timestamp() * 1_000 for record in wanted):
                raise Invalid(
                    f"{partition.topic} would begin before {since:%Y-%m-%d %H:%M} UTC. What was handled before then is "
                    "forgotten here, and would have its effects again.",
                    "Begin later: --from.",
                )
            if wanted:
                yield partition.topic, [_known_as(record, trust) for record in wanted]
        if found:
            heard = time.monotonic()
        # What ends a transaction takes an offset and is no record, so positions count, not records.
        unread = {p: at for p in unread if (at := await reader.position(p)) < plan.ends[p]}
        if unread and time.monotonic() - heard > _SILENCE_SECONDS:
            raise Unavailable("Kafka did not send all records in time.", "Try again.")


def _known_as(record: Any, trust: Trust) -> inbox.Identity:
    """How the inbox knows a record: by its own identity if it can be read today, else by its place."""
    try:
        return take(record, datetime.now(UTC), trust)[0].identity
    except (DriftwheelError, ValueError):
        return unread(record).identity


async def _states(db: Database, records: list[inbox.Identity]) -> Counter[str]:
    """Records by what the inbox says of them; `unknown` are those it does not have.

    One that died because it could not be read, and can be read now, is unknown: its handler never saw it.
    """
    asked = list({event_id for _topic, _source, event_id in records})
    async with db.unit_of_work() as work, (await work.raw()).cursor() as cursor:
        rows = await (await cursor.execute(_STATES, (asked,))).fetchall()
    states: dict[inbox.Identity, str] = {
        (topic, source, event_id): state for topic, source, event_id, state in rows
    }
    return Counter(states.get(identity, "unknown") for identity in records)
