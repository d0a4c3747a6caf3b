"""Each topic's consumer on real Kafka and PostgreSQL: it runs, waits for a part that is away, or stops at its limit."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from infra.kafka import topics
from shared.artifacts.signing import FileVerifier, Trust
from shared.contracts.errors import Poison, RetryLater
from shared.contracts.events import Event, FeedbackRecorded, TrainingStatus
from shared.contracts.topology import PRODUCERS
from shared.delivery import handling
from shared.delivery.bus import EventRouter, Work, make_broker, make_router
from shared.delivery.consumer import TopicConsumer
from shared.delivery.intake import EVENT_BY_TOPIC
from shared.delivery.outbox import SIGNATURE
from shared.delivery.unit_of_work import POOL, Database
from shared.operations.lag import Lag
from shared.service.progress import Progress, Watch
from shared.telemetry.metrics import FOREIGN_REFUSED
from tests.kit import event_keys, until
from tests.service.kernel.test_delivery import delivery_settings


class Bench:
    """One service that reads two topics of three partitions: `own`, of the platform, and `foreign`, open to anybody."""

    def __init__(self, kafka: Any, url: str, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stack = kafka.stack
        self.kafka = kafka
        self.own, self.foreign = kafka.fresh_topic(3), kafka.fresh_topic(3)
        self.serving, public = event_keys(keys, "serving", "serving")
        self.db = Database("data", url, Trust(FileVerifier(public)))
        self.behaviour: Callable[[str, str], Any] = lambda _source, _name: None
        self.seen: list[str] = []
        kafka.create(*(topics.Topic(f"{topic}.data.dlq", 1) for topic in (self.own, self.foreign)))
        for event, topic in ((TrainingStatus, self.own), (FeedbackRecorded, self.foreign)):
            monkeypatch.setattr(event, "topic", topic)
            monkeypatch.setitem(EVENT_BY_TOPIC, topic, event)
        monkeypatch.setitem(PRODUCERS, self.foreign, ("serving",))

    def open(self, **changed: Any) -> "Opened":
        return Opened(self, **changed)


class Opened:
    """The service while it runs."""

    def __init__(self, bench: Bench, **changed: Any) -> None:
        self.bench = bench
        self.settings = delivery_settings(bench.kafka, **({"retry_first_seconds": 0.05} | changed))
        self.broker = make_broker(self.settings, bench.db, "data", [self._router()])
        self.own: TopicConsumer = self.broker.consumers[bench.own]
        self.foreign: TopicConsumer = self.broker.consumers[bench.foreign]

    def _router(self) -> EventRouter:
        router, bench = make_router("data"), self.bench

        async def take(name: str, work: Any) -> None:
            assert work.cause
            bench.seen.append(name)
            if asyncio.iscoroutine(waited := bench.behaviour(work.cause.source, name)):
                await waited
            await work.execute("INSERT INTO effects VALUES (:name)", {"name": name})

        @router.on(TrainingStatus)
        async def on_training_status(event: TrainingStatus, work: Work) -> None:
            await take(event.run_id, work)

        @router.on(FeedbackRecorded)
        async def on_feedback_recorded(event: FeedbackRecorded, work: Work) -> None:
            await take(event.feedback_id, work)

        return router

    async def __aenter__(self) -> "Opened":
        async with self.bench.db.unit_of_work() as work:
            await work.execute("CREATE TABLE IF NOT EXISTS effects (name text)")
        self.producer = AIOKafkaProducer(**self.bench.kafka.client())
        await self.producer.start()
        await self.broker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.stop()
        await self.producer.stop()
        await self.bench.db.close()

    async def send(
        self, topic: str, name: str, source: str = "/trainer", partition: int = 0, padding: int = 0
    ) -> None:
        event: Event
        if topic == self.bench.own:
            event = TrainingStatus(model="m", state="started", run_id=name)
        else:
            event = FeedbackRecorded(feedback_id=name, answer_id=name, model="m", score=1, actor="a")
        body = event.model_dump_json().encode() + b" " * padding
        headers = [("ce_id", name), ("ce_type", event.ce_type()), ("ce_source", source)]
        if source == "/serving":
            headers += zip(SIGNATURE, self.bench.serving.sign(name, event.ce_type(), body), strict=True)
        await self.producer.send_and_wait(
            topic,
            body,
            key=event.partition_key().encode(),
            headers=[(key, value.encode()) for key, value in headers],
            partition=partition,
        )

    async def effects(self) -> list[str]:
        async with self.bench.db.unit_of_work() as work:
            return [row[0] for row in await work.execute("SELECT name FROM effects")]

    async def done(self, *names: str, seconds: float = 60) -> None:
        async def all_there() -> bool:
            return set(names) <= set(await self.effects())

        await until(all_there, f"{names}", seconds)

    async def turned(self, consumer: TopicConsumer, state: str, seconds: float = 60) -> None:
        async def is_so() -> bool:
            return consumer.state.name == state

        await until(is_so, f"{consumer.topic} {state}, it is {consumer.state}", seconds)

    async def states(self) -> dict[str, str]:
        async with self.bench.db.unit_of_work() as work:
            return {row[0]: row[1] for row in await work.execute("SELECT event_id, state FROM inbox")}

    async def settled(self, *names: str) -> dict[str, str]:
        """The states, once all of these have one: what is buried is so after its neighbours were handled."""

        async def all_there() -> dict[str, str] | None:
            states = await self.states()
            return states if set(names) <= states.keys() else None

        found: dict[str, str] = await until(all_there, f"the end of {names}", 60)
        return found


@pytest.fixture
def bench(
    kafka: Any, make_kernel_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Bench:
    return Bench(kafka, make_kernel_database(), tmp_path, monkeypatch)


def fail(*bad: str) -> Callable[[str, str], None]:
    def behaviour(source: str, name: str) -> None:
        if source in bad or name.startswith(bad):
            raise Poison("It is bad.")

    return behaviour


async def test_only_the_topic_whose_messages_die_stops_and_an_operator_resumes_it(bench: Bench) -> None:
    bench.behaviour = fail("bad")
    async with bench.open(dead_in_a_row=5) as opened:
        for number in range(12):
            await opened.send(bench.own, f"bad-{number}")
            await opened.send(bench.foreign, f"good-{number}")
        await opened.turned(opened.own, "stopped")
        assert f"driftwheel consumers resume data {bench.own}" in opened.own.state.detail
        await opened.done(*(f"good-{n}" for n in range(12)))
        await opened.send(bench.foreign, "after-the-stop")
        await opened.done("after-the-stop")
        states = await opened.states()
        assert sorted(n for n, state in states.items() if state == "dead") == [f"bad-{n}" for n in range(5)]
        assert not {f"bad-{n}" for n in range(5, 12)} & states.keys(), "what follows stays where it is"
        joined = opened.own.joined_at
        bench.behaviour = fail()
        opened.own.resume()
        await opened.done(*(f"bad-{n}" for n in range(5, 12)))
        assert opened.own.joined_at == joined, "nothing was restarted"


async def test_a_share_of_deaths_stops_a_topic_though_others_succeed(bench: Bench) -> None:
    bench.behaviour = fail("bad")
    async with bench.open(dead_in_a_row=50, dead_ratio=0.5, dead_window=20) as opened:
        for number in range(30):
            await opened.send(bench.own, f"{'good' if number % 4 == 3 else 'bad'}-{number}")
        await opened.turned(opened.own, "stopped")
        assert "of the newest 10" in opened.own.state.detail


async def test_a_bad_producer_of_an_open_topic_is_quarantined_and_the_others_go_on(bench: Bench) -> None:
    bench.behaviour = fail("/mallory")
    async with bench.open(dead_in_a_row=5) as opened:
        for number in range(8):
            await opened.send(bench.foreign, f"m-{number}", "/mallory")
            await opened.send(bench.foreign, f"a-{number}", "/ann")
        await opened.done(*(f"a-{n}" for n in range(8)))
        assert opened.foreign.quarantined == ["/mallory"]
        assert opened.foreign.state.name == "running"
        assert {name for name in bench.seen if name.startswith("m-")} == {f"m-{n}" for n in range(5)}
        states = await opened.settled(*(f"m-{n}" for n in range(8)))
        assert {states[f"m-{n}"] for n in range(8)} == {"dead"}, "what it sends is buried, not lost"
        bench.behaviour = fail()
        opened.foreign.resume("/mallory")
        await opened.send(bench.foreign, "m-9", "/mallory")
        await opened.done("m-9")


async def test_junk_on_an_open_topic_stops_nobody(bench: Bench) -> None:
    async with bench.open(dead_in_a_row=5) as opened:
        for number in range(60):
            await opened.producer.send_and_wait(bench.foreign, b"{%d" % number, partition=number % 3)
        await opened.send(bench.foreign, "good", "/ann")
        await opened.done("good")
        assert opened.foreign.state.name == "running"
        assert opened.foreign.quarantined == []


async def test_kafka_that_fails_between_two_starts_starts_nothing_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = AIOKafkaConsumer.start, []
    started: list[str] = []

    async def start(consumer: AIOKafkaConsumer) -> None:
        group = str(consumer._group_id)
        if started and len(failed) < 3 and group not in started:
            failed.append(group)
            raise KafkaConnectionError("Kafka went away between two subscribers")
        started.append(group)
        await real(consumer)

    monkeypatch.setattr(AIOKafkaConsumer, "start", start)
    async with bench.open() as opened:
        for number in range(30):
            await opened.send(bench.own, f"o-{number}", partition=number % 3)
            await opened.send(bench.foreign, f"f-{number}", partition=number % 3)
        names = [f"{kind}-{n}" for kind in "of" for n in range(30)]
        await opened.done(*names)
        assert failed
        assert len(started) == 2, "each joined once"

        async def all_committed() -> bool:
            places = [
                await consumer.consumer.committed(partition)
                for consumer in opened.broker.consumers.values()
                if consumer.consumer
                for partition in consumer.assigned
            ]
            return places == [10] * 6

        await until(all_committed, "every partition committed to its end")
    assert sorted(bench.seen) == sorted(names)


async def test_an_outage_is_waited_for_in_place_and_is_never_taken_for_a_hang(bench: Bench) -> None:
    lag_patience = 3.0
    async with bench.open() as opened:
        await opened.send(bench.own, "before")
        await opened.done("before")
        lag = Lag("data", opened.broker, opened.settings)
        measuring = asyncio.create_task(lag.run())

        async def well() -> bool:
            return False

        progress = Progress(opened.broker.consumers.values(), lag, lag_patience, well)
        joined = opened.own.joined_at
        await asyncio.to_thread(bench.stack.take_down, "postgres")
        try:
            for number in range(20):
                await opened.send(bench.own, f"d-{number:02}")
            await opened.turned(opened.own, "waiting")
            assert opened.own.state.detail == "postgres"
            assert opened.foreign.state.name == "running", "it has nothing to wait for"
            until_then = time.monotonic() + 4 * lag_patience
            while time.monotonic() < until_then:
                assert await progress.stuck() == {}
                await asyncio.sleep(0.5)
        finally:
            await asyncio.to_thread(bench.stack.start, "postgres")
        await opened.done(*(f"d-{n:02}" for n in range(20)))
        assert opened.own.joined_at == joined, "it never left its group"
        assert await opened.effects() == ["before", *(f"d-{n:02}" for n in range(20))]
        assert opened.own.state.name == "running"
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)


async def test_requests_that_hold_all_connections_bury_no_event(bench: Bench) -> None:
    async with bench.open() as opened:
        held = [bench.db.unit_of_work() for _ in range(POOL)]
        for unit in held:
            await (await unit.__aenter__()).execute("SELECT 1")
        await opened.send(bench.own, "good")

        async def handled() -> bool:
            return bench.seen == ["good"] and opened.own.handled_at is not None

        await until(handled, "the event, through connections of its own")
        for unit in held:
            await unit.__aexit__(None, None, None)
        await opened.done("good")


async def test_a_pool_without_a_free_connection_is_waited_for(bench: Bench) -> None:
    failures = iter([PoolTimeout("QueuePool limit reached")] * 5)

    def behaviour(_source: str, _name: str) -> None:
        if error := next(failures, None):
            raise error

    bench.behaviour = behaviour
    async with bench.open(retry_attempts=2) as opened:
        await opened.send(bench.own, "good")
        await opened.done("good")
        assert (await opened.states())["good"] == "done"


async def test_an_event_waits_for_the_one_it_depends_on_while_other_partitions_go_on(bench: Bench) -> None:
    parents: set[str] = set()

    def behaviour(_source: str, name: str) -> None:
        if name.startswith("child") and "parent" not in parents:
            raise RetryLater("The parent is not here yet.")

    bench.behaviour = behaviour
    async with bench.open(retry_attempts=2, retry_later_seconds=60) as opened:
        await opened.send(bench.own, "child-1", partition=0)
        await opened.send(bench.own, "child-2", partition=0)
        await opened.send(bench.own, "other", partition=1)
        await opened.done("other")
        began = time.monotonic()
        while time.monotonic() - began < 6:
            assert (await opened.states()).keys() == {"other"}, "it neither died nor was overtaken"
            await asyncio.sleep(0.5)
        assert opened.own.state.name == "running"
        assert [parked["offset"] for parked in opened.own.to_json()["parked"]] == [0]
        parents.add("parent")
        await opened.done("child-1", "child-2")
        assert [n for n in await opened.effects() if n.startswith("child")] == ["child-1", "child-2"]


async def test_an_event_whose_other_never_comes_dies_in_the_end(bench: Bench) -> None:
    def behaviour(_source: str, name: str) -> None:
        if name == "orphan":
            raise RetryLater("The parent is not here yet.")

    bench.behaviour = behaviour
    async with bench.open(retry_later_seconds=1) as opened:
        await opened.send(bench.own, "orphan")
        await opened.send(bench.own, "next")
        await opened.done("next")
        assert (await opened.states())["orphan"] == "dead"


async def test_handlers_that_time_out_each_time_hold_up_nobody_for_ever_not_even_two_of_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time-out that names no part is no evidence of an outage, also for the other topic that has one."""
    monkeypatch.setattr(handling, "_UNNAMED_SECONDS", 3.0)

    async def too_slow() -> None:
        raise TimeoutError

    bench.behaviour = lambda _source, name: too_slow() if name.startswith("slow") else None
    async with bench.open() as opened:
        for topic in (bench.own, bench.foreign):
            await opened.send(topic, f"slow-{topic}")
            await opened.send(topic, f"next-{topic}")
        await opened.done(f"next-{bench.own}", f"next-{bench.foreign}")
        states = await opened.states()
    assert {states[f"slow-{topic}"] for topic in (bench.own, bench.foreign)} == {"dead"}


async def test_a_handler_that_hangs_on_the_last_record_is_begun_anew(bench: Bench) -> None:
    hangs = asyncio.Event()

    async def behaviour_once() -> None:
        if bench.seen.count("last") == 1:
            await hangs.wait()

    bench.behaviour = lambda _source, _name: behaviour_once()
    async with bench.open() as opened:
        lag = Lag("data", opened.broker, opened.settings)
        measuring = asyncio.create_task(lag.run())

        async def well() -> bool:
            return True

        progress = Progress(opened.broker.consumers.values(), lag, 3, well)
        await opened.send(bench.own, "last")

        async def stuck() -> Any:
            return await progress.stuck()

        assert (await until(stuck, "the hang", 60)).keys() == {bench.own}
        watch = Watch(progress, opened.broker, ends=False)
        await watch._cure(opened.own, "there")
        await opened.done("last")
        assert (await opened.effects()).count("last") == 1
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)


async def test_a_producer_over_its_quota_loses_what_is_too_much_and_no_other_waits(bench: Bench) -> None:
    """Buried with the reason; never quarantined for it, so that its next minute is a new one."""
    counted = {limit: FOREIGN_REFUSED.labels("data", bench.foreign, limit) for limit in ("quota", "bytes")}
    async with bench.open(feedback_per_minute=5, foreign_message_bytes=1_024, dead_in_a_row=3) as opened:
        for number in range(20):
            await opened.send(bench.foreign, f"m-{number}", "/mallory")
            await opened.send(bench.foreign, f"o-{number}", "/serving")
        await opened.send(bench.foreign, "long", "/bob", padding=2_000)
        await opened.send(bench.foreign, "short", "/bob")
        await opened.done(*(f"o-{n}" for n in range(20)), "short")
        states = await opened.settled(*(f"m-{n}" for n in range(20)), "long")
        by_source = {name: sum(states[f"m-{n}"] == name for n in range(20)) for name in ("done", "dead")}
        assert 5 <= by_source["done"] <= 10, "five in a minute; the test may see two of them"
        assert states["long"] == "dead"
        assert opened.foreign.quarantined == []
        assert opened.foreign.state.name == "running"
        async with bench.db.unit_of_work() as work:
            rows = await work.execute("SELECT source, error FROM dead_letters ORDER BY source DESC")
            reasons = {row.source: row.error for row in rows}
        assert "more than 5 of these in a minute" in reasons["/mallory"]
        assert "more than 1024 bytes" in reasons["/bob"]
        assert counted["quota"]._value.get() >= by_source["dead"]
        assert counted["bytes"]._value.get() == 1
