"""Routes that every service has for its events: the log, consumers, what was not sent, dead letters, and a replay."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field, StringConstraints

from shared.contracts.errors import Invalid, NotFound
from shared.contracts.text import Contract, Json, Text
from shared.delivery.bus import EventBroker
from shared.delivery.settings import DeliverySettings
from shared.http.auth import Caller, requires
from shared.http.keyset import Cursor
from shared.http.web import HttpWork
from shared.operations import dead_letters, event_log, unsent
from shared.operations.replay import Replay, Start

Short = Annotated[Text, StringConstraints(max_length=200)]
Asked = Annotated[Short | None, Query()]
Page = Annotated[Annotated[Text, StringConstraints(max_length=1_200)] | None, Query()]
Limit = Annotated[int, Query(ge=1, le=500)]
Monitoring = Annotated[Caller, requires("monitor:read")]
Admin = Annotated[Caller, requires("admin")]


class RedriveRequest(Contract):
    """Which dead letters to send again, at most how many, and how many a second."""

    topic: Short | None = None
    error: Short | None = None
    correlation: Short | None = None
    source: Short | None = None
    limit: int = Field(dead_letters.MOST, ge=1, le=dead_letters.MOST)
    per_second: float = Field(50, ge=0.1, le=1_000)
    dry_run: bool = False


class ResumeRequest(Contract):
    """Of which source to lift the quarantine; none: the consumer that stopped at its limit goes on."""

    source: Annotated[Text, StringConstraints(max_length=1_024)] | None = None


class RetryRequest(Contract):
    """Which of the events that were given up to send again; all, if it names none."""

    topic: Short | None = None
    event_id: Short | None = None


class ReplayRequest(Contract):
    """From where to deliver again: a time, or topic/partition/offset. A dry run unless told otherwise."""

    start: Short = Field(alias="from")
    topics: list[Short] = Field([], max_length=50)
    dry_run: bool = True


def make_event_operations(service: str, broker: EventBroker, settings: DeliverySettings) -> APIRouter:
    router = APIRouter(tags=["operations"])
    replay = Replay(service, broker, settings)

    @router.get("/events")
    async def events(
        work: HttpWork,
        _caller: Monitoring,
        topic: Asked = None,
        any_id: Annotated[Short | None, Query(alias="id")] = None,
        after: Page = None,
        limit: Limit = 50,
    ) -> Json:
        """Newest first: what this service sent, and what reached it from outside the platform."""
        return await event_log.newest(work, service, topic, any_id, Cursor.of(after), limit)

    @router.get("/dead-letters")
    async def letters(
        work: HttpWork,
        _caller: Monitoring,
        topic: Asked = None,
        error: Asked = None,
        correlation: Asked = None,
        source: Asked = None,
        after: Page = None,
        limit: Limit = 100,
    ) -> Json:
        """Newest first. `error` is any part of the reason."""
        wanted = dead_letters.Wanted(topic, error, correlation, source)
        return await dead_letters.newest(work, wanted, Cursor.of(after), limit)

    @router.get("/dead-letters/{event_id:path}")
    async def letter(event_id: str, work: HttpWork, caller: Monitoring) -> Json:
        """Why and where it died, with key and headers. The payload only for `admin`: it may hold what users wrote,
        which a token for watching the platform has no business with; the reason never quotes it."""
        return await dead_letters.one(work, _event_id(event_id), with_payload=caller.may("admin"))

    @router.post("/dead-letters/redrive")
    async def redrive_many(asked: RedriveRequest, work: HttpWork, _caller: Admin) -> Json:
        """Send all that match again, the oldest first; a dry run says what that would be and changes nothing."""
        wanted = dead_letters.Wanted(asked.topic, asked.error, asked.correlation, asked.source)
        if asked.dry_run:
            found = await dead_letters.matching(work, wanted, asked.limit)
            return {"dry_run": True, "seconds": found["messages"] / asked.per_second, **found}
        return {
            "dry_run": False,
            **await dead_letters.redrive_many(work, wanted, asked.limit, asked.per_second),
        }

    @router.post("/dead-letters/{event_id:path}/redrive")
    async def redrive(event_id: str, work: HttpWork, _caller: Admin) -> Json:
        return {"event_id": event_id, "topic": await dead_letters.redrive(work, _event_id(event_id))}

    @router.get("/consumers")
    async def consumers(_caller: Monitoring) -> Json:
        """The state of each topic's consumer in this process, and whom it has in quarantine."""
        return {"consumers": [consumer.to_json() for consumer in broker.consumers.values()]}

    @router.post("/consumers/{topic}/resume")
    async def resume(topic: Short, asked: ResumeRequest, _caller: Admin) -> Json:
        """Let a consumer go on that stopped at its limit, or take from a source again; nothing is restarted."""
        consumer = broker.consumers.get(topic)
        if consumer is None:
            raise NotFound(
                "This service does not consume this topic.", "List them: driftwheel consumers list."
            )
        consumer.resume(asked.source)
        return consumer.to_json()

    @router.get("/outbox")
    async def outbox(work: HttpWork, _caller: Monitoring, topic: Asked = None, limit: Limit = 100) -> Json:
        """Events that Kafka did not take, the oldest first: given up, or first of a topic that waits."""
        return await unsent.unsent(work, topic, limit)

    @router.post("/outbox/retry")
    async def retry_outbox(asked: RetryRequest, work: HttpWork, _caller: Admin) -> Json:
        """Send again what was given up."""
        return await unsent.retry(work, asked.topic, asked.event_id)

    @router.post("/replay")
    async def replay_events(asked: ReplayRequest, request: Request, _caller: Admin) -> Json:
        """Deliver records of the past to this service again: what it handled before has no effect."""
        start = Start.of(asked.start)
        return await replay.replay(request.app.state.db, start, asked.topics, dry_run=asked.dry_run)

    return router


def _event_id(text: str) -> str:
    if len(text) > 1_100 or "\x00" in text:
        raise Invalid("That is not an event id.", "List them: driftwheel dlq list.")
    return text
