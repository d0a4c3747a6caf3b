"""A message that claims to be from one of our services, and is not: filed under a name of its own, and seen to be so."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from shared.contracts.events import Event, FeedbackRecorded, TrainingRequested
from shared.delivery.handling import Done, Handling, Tries
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.operations import event_log

JUDGED = FeedbackRecorded(feedback_id="f", answer_id="a", model="support", score=1, actor="ann")
ASKED = TrainingRequested(model="support", idempotency_key="k", dataset_digest="d" * 64)


class Desk:
    """One service that handles whatever comes, and what its handlers saw."""

    def __init__(self, service: str, url: str) -> None:
        self.db = Database(service, url)
        self.sources: list[str] = []
        self._handling = Handling(service, self.db, DeliverySettings())
        self._offset = -1

    def record(self, event: Event, event_id: str, source: str) -> Any:
        self._offset += 1
        named = {"ce_id": event_id, "ce_source": source, "ce_type": event.ce_type()}
        headers = [(name, value.encode()) for name, value in named.items()]
        now, body = int(time.time() * 1_000), event.model_dump_json().encode()
        return ConsumerRecord(event.topic, 0, self._offset, now, 1, None, body, None, 0, 1, headers)

    async def _seen(self, events: list[Event], work: UnitOfWork) -> None:
        self.sources += [cause.source for cause in work.causes]

    async def takes(self, *records: Any) -> list[str]:
        """Outcomes: of one alone, or of several in one transaction."""
        if len(records) == 1:
            found = await self._handling.one(records[0], self._seen, Tries(), lambda _: None)
            assert isinstance(found, Done)
            return [found.outcome]
        many = await self._handling.many(records, self._seen, lambda _: None, batch=True)
        assert isinstance(many, list)
        return [one.outcome if one else "alone" for one in many]

    async def listed(self) -> dict[str, str]:
        async with self.db.unit_of_work() as work:
            found = await event_log.newest(work, self.db.service)
        return {row["event_id"]: row["source"] for row in found["events"] if row["state"] == "received"}


@pytest.fixture
async def open_desk(make_kernel_database: Callable[[], str]) -> AsyncIterator[Callable[[str], Desk]]:
    made: list[Desk] = []

    def make(service: str) -> Desk:
        made.append(Desk(service, make_kernel_database()))
        return made[-1]

    yield make
    for desk in made:
        await desk.db.close()


async def test_no_service_of_ours_asks_for_training_so_whoever_says_so_is_a_stranger(
    open_desk: Callable[[str], Desk],
) -> None:
    desk = open_desk("trainer")
    assert await desk.takes(desk.record(ASKED, "1", "/registry")) == ["handled"]
    assert await desk.takes(desk.record(ASKED, "1", "/crm")) == ["handled"]
    assert desk.sources == ["/unverified/registry", "/crm"]
    async with desk.db.unit_of_work() as work:
        rows = await work.execute("SELECT source FROM inbox ORDER BY source")
        assert [row[0] for row in rows] == ["/crm", "/unverified/registry"]
        found = await event_log.newest(work, "trainer")
        assert sorted(row["source"] for row in found["events"]) == ["/crm", "/unverified/registry"]


@pytest.mark.parametrize("together", [False, True])
async def test_who_is_said_to_have_sent_it_looks_into_its_own_record(
    open_desk: Callable[[str], Desk], together: bool
) -> None:
    desk = open_desk("serving")
    async with desk.db.unit_of_work() as work:
        genuine = work.emit(JUDGED)
    records = [
        desk.record(JUDGED, "forged", "/serving"),
        desk.record(JUDGED, genuine, "/serving"),
        desk.record(JUDGED, "honest", "/crm"),
        desk.record(JUDGED, "absurd", "/registry"),
    ]
    for records_of_one_call in [records] if together else [[record] for record in records]:
        assert set(await desk.takes(*records_of_one_call)) == {"handled"}
    assert desk.sources == ["/unverified/serving", "/serving", "/crm", "/unverified/registry"]
    listed = {"forged": "/unverified/serving", "honest": "/crm", "absurd": "/unverified/registry"}
    assert await desk.listed() == listed


async def test_a_forgery_under_the_id_of_a_genuine_event_does_not_take_its_place(
    open_desk: Callable[[str], Desk],
) -> None:
    desk = open_desk("serving")
    altered = JUDGED.model_copy(update={"score": 0.0})
    assert await desk.takes(desk.record(altered, "to-come", "/serving")) == ["handled"]
    assert await desk.takes(desk.record(JUDGED, "to-come", "/serving")) == ["dead"], "still nobody sent it"
    await say_as(desk, "to-come")
    assert await desk.takes(desk.record(JUDGED, "to-come", "/serving")) == ["handled"]


async def say_as(desk: Desk, event_id: str) -> None:
    """Emit the judgement under a known id."""
    async with desk.db.unit_of_work() as work:
        work.emit(JUDGED)
    async with desk.db.unit_of_work() as work:
        await work.execute("UPDATE outbox SET event_id = :id", {"id": event_id})
