"""What becomes of records: handled, known already, dead; or they stay where they are and come again."""

import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import structlog
from aiokafka import ConsumerRecord

from shared.contracts.counters import Implausible
from shared.contracts.errors import RetryLater
from shared.contracts.events import Event
from shared.delivery import inbox
from shared.delivery.failures import Failure, classify
from shared.delivery.inbox import Delivery
from shared.delivery.intake import bury, describe, take, unread
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.telemetry.metrics import FOREIGN_REFUSED, HANDLED, HANDLING_SECONDS, IMPLAUSIBLE
from shared.telemetry.spans import current_trace_id, processing, processing_many

log = structlog.get_logger()

_UNNAMED_SECONDS = 60.0

Record: TypeAlias = "ConsumerRecord[Any, Any]"
Call = Callable[[list[Event], UnitOfWork], Awaitable[None]]
"""Runs a handler: with the one event of an ordinary subscriber, or with the events of a batch."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message is not taken from its source.

    Attributes:
        limit: which limit of foreign producers it is over, `quota` or `bytes`; None: its source is in quarantine.
    """

    reason: str
    limit: str | None = None


Refuse = Callable[[Delivery], Refusal | None]
"""Whether a message is taken from its source, before anything is done with it."""


@dataclass(frozen=True, slots=True)
class Done:
    """The record needs no more care.

    Attributes:
        outcome: `handled`, `duplicate` or `dead`.
        failure: why a fresh one died.
        surplus: it died for want of quota, not of anything that is wrong with it.
    """

    outcome: str
    source: str
    failure: Failure | None = None
    reason: str = ""
    surplus: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """The record stays where it is, and comes again."""

    failure: Failure
    error: str


@dataclass(slots=True)
class Tries:
    """What a record has gone through so far.

    Attributes:
        attempts: times its handler failed; outages do not count.
        waited: seconds it has waited for the event that it depends on, or for an outage that names no part.
    """

    attempts: int = 0
    waited: float = 0.0


class Handling:
    """One transaction holds the claim in the inbox, the effects, and the events or the dead letter they cause."""

    def __init__(self, service: str, db: Database, settings: DeliverySettings) -> None:
        self._service = service
        self._db = db
        self._settings = settings

    async def one(self, record: Record, call: Call, tries: Tries, refused: Refuse) -> Done | Again:
        """Handle one record. One that is over a limit is answered where its event has an answer, else buried."""
        began = time.monotonic()
        done = await self._one(record, call, tries, refused)
        if isinstance(done, Done):
            self._count(record.topic, [done.outcome], began)
        return done

    async def _one(self, record: Record, call: Call, tries: Tries, refused: Refuse) -> Done | Again:
        delivery = unread(record)
        try:
            delivery, event = take(record, delivery.received_at, self._db.trust)
            if refusal := refused(delivery):
                if refusal.limit and not tries.attempts:
                    FOREIGN_REFUSED.labels(self._service, record.topic, refusal.limit).inc()
                told = event.turned_down(refusal.reason) if refusal.limit else None
                if told is None:
                    surplus = refusal.limit == "quota"
                    return await self._bury(
                        delivery, tries, Failure("poison"), refusal.reason, surplus=surplus
                    )
                event = told
            tries.attempts += 1
            with processing(self._service, delivery):
                async with self._db.unit_of_work(delivery.envelope) as work:
                    work.causes, work.cause = [delivery.envelope], delivery.envelope
                    if not await inbox.claim(work, delivery, tries.attempts):
                        return Done("duplicate", delivery.envelope.source)
                    await call([event], work)
                log.info("event.handled", attempt=tries.attempts, **_names(delivery))
            return Done("handled", delivery.envelope.source)
        except Exception as error:  # noqa: BLE001 (each is classified)
            failure = classify(error)
            if failure.kind == "outage":
                tries.attempts -= 1
            if self._comes_again(error, failure, tries):
                return Again(failure, type(error).__name__)
            if isinstance(error, Implausible):
                IMPLAUSIBLE.labels(self._service, record.topic).inc()
            if failure.kind == "bug":
                log.error("event.failed", error=type(error).__name__, at=_where(error), **_names(delivery))
            return await self._bury(delivery, tries, failure, describe(error))

    def _comes_again(self, error: Exception, failure: Failure, tries: Tries) -> bool:
        if isinstance(error, RetryLater):
            return tries.waited < self._settings.retry_later_seconds
        if failure.kind == "outage":
            return not failure.bounded or tries.waited < _UNNAMED_SECONDS
        return failure.kind == "retry" and tries.attempts < self._settings.retry_attempts

    async def many(
        self, records: Sequence[Record], call: Call, refused: Refuse, *, batch: bool
    ) -> list[Done | None] | Again:
        """Handle records of one partition in one transaction, but for those that are answered with None.

        These wait for `one`: they cannot be read, or are refused, or (then all) the handler failed for one of them.

        Args:
            batch: call the handler once for all of them, rather than for one after the other.
        """
        began, received_at = time.monotonic(), datetime.now(UTC)
        taken: dict[int, tuple[Delivery, Event]] = {}
        for place, record in enumerate(records):
            with suppress(Exception):  # `one` reads it again, and buries it with its reason
                delivery, event = take(record, received_at, self._db.trust)
                if refused(delivery) is None:
                    taken[place] = delivery, event
        if not taken:
            return [None] * len(records)
        together = self._at_once if batch else self._in_turn
        try:
            async with self._db.unit_of_work() as work:
                claims = await inbox.claim_many(work, [delivery for delivery, _ in taken.values()])
                fresh = [one for one, claim in zip(taken.values(), claims, strict=True) if claim == "fresh"]
                said = await together(fresh, call, work) if fresh else []
        except Exception as error:  # noqa: BLE001 (what is no outage is met again singly, and classified there)
            failure = classify(error)
            return Again(failure, type(error).__name__) if failure.kind == "outage" else [None] * len(records)
        for line in said:
            log.info(**line)
        found: list[Done | None] = [None] * len(records)
        for (place, (delivery, _)), claim in zip(taken.items(), claims, strict=True):
            if claim != "reused":
                found[place] = Done("handled" if claim == "fresh" else "duplicate", delivery.envelope.source)
        self._count(records[0].topic, [done.outcome for done in found if done], began)
        return found

    async def _at_once(
        self, fresh: Sequence[tuple[Delivery, Event]], call: Call, work: UnitOfWork
    ) -> list[dict[str, Any]]:
        deliveries = [delivery for delivery, _ in fresh]
        with processing_many(self._service, deliveries):
            work.causes = [delivery.envelope for delivery in deliveries]
            work.cause = work.causes[-1]
            await call([event for _, event in fresh], work)
            return [
                {
                    "event": "events.handled",
                    "topic": deliveries[0].topic,
                    "events": len(fresh),
                    "trace_id": current_trace_id(),
                }
            ]

    async def _in_turn(
        self, fresh: Sequence[tuple[Delivery, Event]], call: Call, work: UnitOfWork
    ) -> list[dict[str, Any]]:
        """Each handler sees what it would in a transaction of its own: nothing that another one has loaded."""
        said = []
        for delivery, event in fresh:
            with processing(self._service, delivery):
                work.causes, work.cause = [delivery.envelope], delivery.envelope
                await call([event], work)
                await work.session.flush()
                work.session.expunge_all()
                said.append(
                    {
                        "event": "event.handled",
                        "attempt": 1,
                        **_names(delivery),
                        "trace_id": current_trace_id(),
                    }
                )
        return said

    def _count(self, topic: str, outcomes: Sequence[str], began: float) -> None:
        """Each message of a batch took the time of the batch."""
        seconds = time.monotonic() - began
        for outcome, number in Counter(outcomes).items():
            HANDLED.labels(self._service, topic, outcome).inc(number)
        observed = HANDLING_SECONDS.labels(self._service, topic)
        for _ in outcomes:
            observed.observe(seconds)

    async def _bury(
        self, delivery: Delivery, tries: Tries, failure: Failure, reason: str, *, surplus: bool = False
    ) -> Done | Again:
        """What a replay brings again was buried before, and is no further death."""
        source = delivery.envelope.source
        try:
            fresh = await bury(self._db, self._service, delivery, max(tries.attempts, 1), reason)
        except Exception as error:
            away = classify(error)
            if away.kind != "outage":
                log.exception("event.unburied", place=delivery.place)
            return Again(away, type(error).__name__)
        if not fresh:
            return Done("duplicate", source)
        log.error("event.dead", place=delivery.place, event_id=delivery.envelope.id, reason=reason)
        return Done("dead", source, failure, reason, surplus)


def _names(delivery: Delivery) -> dict[str, Any]:
    return {
        "topic": delivery.topic,
        "partition": delivery.partition,
        "offset": delivery.offset,
        "event_id": delivery.envelope.id,
        "correlation_id": delivery.envelope.correlationid,
    }


def _where(error: Exception) -> str:
    """The line that raised. Not its text, which may quote what a user wrote."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
