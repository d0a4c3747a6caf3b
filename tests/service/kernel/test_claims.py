"""A message that claims to be from one of our services, and is not: filed under a name of its own, and seen to be so."""

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from shared.artifacts.signing import FileSigner, FileVerifier, Trust
from shared.contracts.events import Event, FeedbackRecorded, TrainingRequested
from shared.delivery.bus import make_broker, make_router
from shared.delivery.handling import Done, Handling, Tries
from shared.delivery.outbox import SIGNATURE
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.operations import event_log
from tests.kit import event_keys

JUDGED = FeedbackRecorded(feedback_id="f", answer_id="a", model="support", score=1, actor="ann")
ASKED = TrainingRequested(model="support", idempotency_key="k", dataset_digest="d" * 64)


class Desk:
    """One service that handles whatever comes, and what its handlers saw."""

    def __init__(self, service: str, url: str, keys: Path) -> None:
        self.serving, public = event_keys(keys, "serving", "serving")
        self.registry, other = event_keys(keys)
        both = [json.loads(path.read_text())["keys"][0] for path in (public, other)]
        public.write_text(json.dumps({"keys": both}))
        self.db = Database(service, url, Trust(FileVerifier(public)))
        self.sources: list[str] = []
        self._handling = Handling(service, self.db, DeliverySettings())
        self._offset = -1

    def record(self, event: Event, event_id: str, source: str) -> Any:
        self._offset += 1
        named = {"ce_id": event_id, "ce_source": source, "ce_type": event.ce_type()}
        headers = [(name, value.encode()) for name, value in named.items()]
        now, body = int(time.time() * 1_000), event.model_dump_json().encode()
        return ConsumerRecord(event.topic, 0, self._offset, now, 1, None, body, None, 0, 1, headers)

    def genuine(self, event: Event, event_id: str, signer: FileSigner | None = None) -> Any:
        record = self.record(event, event_id, "/serving")
        signature = (signer or self.serving).sign(event_id, event.ce_type(), record.value)
        record.headers.extend(
            (name, value.encode()) for name, value in zip(SIGNATURE, signature, strict=True)
        )
        return record

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
async def open_desk(
    make_kernel_database: Callable[[], str], tmp_path: Path
) -> AsyncIterator[Callable[[str], Desk]]:
    made: list[Desk] = []

    def make(service: str) -> Desk:
        made.append(Desk(service, make_kernel_database(), tmp_path))
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


@pytest.mark.parametrize("service", ["serving", "monitor"])
@pytest.mark.parametrize("together", [False, True])
async def test_only_what_serving_has_signed_is_from_serving(
    open_desk: Callable[[str], Desk], service: str, together: bool
) -> None:
    desk = open_desk(service)
    records = [
        desk.record(JUDGED, "forged", "/serving"),
        desk.genuine(JUDGED, "true"),
        desk.record(JUDGED, "honest", "/crm"),
        desk.record(JUDGED, "absurd", "/registry"),
    ]
    for records_of_one_call in [records] if together else [[record] for record in records]:
        assert set(await desk.takes(*records_of_one_call)) == {"handled"}
    assert desk.sources == ["/unverified/serving", "/serving", "/crm", "/unverified/registry"]
    assert "/unverified/serving" in (await desk.listed()).values()


async def test_the_registry_s_key_does_not_speak_for_serving(open_desk: Callable[[str], Desk]) -> None:
    desk = open_desk("monitor")
    assert await desk.takes(desk.genuine(JUDGED, "1", signer=desk.registry)) == ["handled"]
    assert desk.sources == ["/unverified/serving"]


async def test_a_forgery_under_the_id_of_a_genuine_event_does_not_take_its_place(
    open_desk: Callable[[str], Desk],
) -> None:
    desk = open_desk("serving")
    altered = JUDGED.model_copy(update={"score": 0.0})
    assert await desk.takes(desk.record(altered, "to-come", "/serving")) == ["handled"]
    assert await desk.takes(desk.record(JUDGED, "to-come", "/serving")) == ["dead"], "still unsigned"
    assert await desk.takes(desk.genuine(JUDGED, "to-come")) == ["handled"]


async def test_who_calls_itself_serving_meets_every_limit_of_a_stranger_and_stops_nobody(
    open_desk: Callable[[str], Desk],
) -> None:
    """On the running consumer: quota, bytes, and deaths."""
    desk = open_desk("monitor")
    settings = DeliverySettings(feedback_per_minute=10, foreign_message_bytes=4_096, dead_in_a_row=5)
    router = make_router("monitor")

    @router.on(FeedbackRecorded)
    async def on_feedback_recorded(event: FeedbackRecorded, work: UnitOfWork) -> None:
        await desk._seen([event], work)

    consumer = make_broker(settings, desk.db, "monitor", [router]).consumers[FeedbackRecorded.topic]

    async def arrives(record: Any) -> str:
        done = await desk._handling.one(record, desk._seen, Tries(), consumer._refused)
        assert isinstance(done, Done)
        consumer._settle(TopicPartition(record.topic, 0), record.offset, done)
        return done.outcome

    for source in ("/shop", "/serving"):
        sent = [desk.record(JUDGED, f"{source}-{number}", source) for number in range(12)]
        assert [await arrives(record) for record in sent] == ["handled"] * 10 + ["dead"] * 2
    long = JUDGED.model_copy(update={"actor": "a" * 5_000})
    for source in ("/shop-2", "/registry"):
        assert await arrives(desk.record(long, source, source)) == "dead"
    for number in range(8):  # one id, other bodies
        forged = JUDGED.model_copy(update={"score": number / 10})
        await arrives(desk.record(forged, "same", "/trainer"))
    assert consumer.state.name != "stopped"
    assert set(consumer.quarantined) == {"/unverified/trainer"}
    for number in range(20):
        assert await arrives(desk.genuine(JUDGED, f"true-{number}")) == "handled"
