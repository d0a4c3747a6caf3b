"""What a service says about its lag and its backlog, on real Kafka and PostgreSQL."""

import asyncio
import re
import time

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from fastapi.testclient import TestClient

from shared.delivery.bus import make_broker, make_router
from shared.delivery.unit_of_work import Database
from shared.operations import backlog, lag
from shared.operations.lag import Lag, TopicLag
from tests.kit import wait_until
from tests.service.kernel.small_service import SmallService, feedback


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(lag, "EVERY_SECONDS", 0.1)


def samples(client: TestClient, name: str) -> dict[str, float]:
    """By labels, as they are written."""
    text = client.get("/metrics").text
    return {
        labels: float(value) for labels, value in re.findall(rf"^{name}(\{{.*\}}) (\S+)$", text, re.MULTILINE)
    }


async def send(service: SmallService, *ages: float) -> None:
    """One record of each age in seconds."""
    async with AIOKafkaProducer(**service.client) as producer:
        for number, age in enumerate(ages):
            event = feedback(f"f-{number}")
            headers = [("ce_id", f"f-{number}".encode()), ("ce_type", event.ce_type().encode())]
            value, key = event.model_dump_json().encode(), event.partition_key().encode()
            at = int((time.time() - age) * 1_000)
            await producer.send_and_wait(service.topic, value, key=key, headers=headers, timestamp_ms=at)


def test_lag_is_the_age_of_the_oldest_record_that_is_not_handled(service: SmallService) -> None:
    group = f'{{group="data.{service.topic}",service="data",topic="{service.topic}"}}'
    app = service.app()
    service.held.set()
    asyncio.run(send(service, 900, 300, 0))
    with TestClient(app) as client:

        def shown() -> TopicLag | None:
            return app.state.lag.by_topic().get(service.topic)

        behind = wait_until(shown, "a measurement")
        assert behind.messages == 3
        assert 900 <= behind.seconds < 930
        assert behind.last_handled_at is None
        seconds = wait_until(
            lambda: samples(client, "driftwheel_consumer_lag_seconds").get(group), "the gauge"
        )
        assert 900 <= seconds < 930
        assert samples(client, "driftwheel_consumer_lag_messages")[group] == 3

        service.held.clear()
        wait_until(lambda: (now := shown()) and now.messages == 0, "the end of the lag")
        caught_up = shown()
        assert caught_up is not None
        assert caught_up.seconds == 0
        assert caught_up.last_handled_at is not None
        assert (time.time() - caught_up.last_handled_at.timestamp()) < 30


def test_a_group_without_a_member_shows_its_lag(service: SmallService) -> None:
    asyncio.run(send(service, 500, 400))
    found = asyncio.run(_measured_by_one_that_never_joined(service))
    assert found.messages == 2
    assert 500 <= found.seconds < 530


async def _measured_by_one_that_never_joined(service: SmallService) -> TopicLag:
    from shared.contracts.events import FeedbackRecorded

    router, db = make_router("data"), Database("data", service.url)

    @router.on(FeedbackRecorded)
    async def on_feedback_recorded(event: FeedbackRecorded) -> None:
        raise AssertionError("nobody started the consumer")

    measuring = Lag("data", make_broker(service.settings, db, "data", [router]), service.settings)
    task = asyncio.create_task(measuring.run())
    async with asyncio.timeout(30):
        while service.topic not in measuring.by_topic():
            await asyncio.sleep(0.05)
    found = measuring.by_topic()[service.topic]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await db.close()
    return found


def test_what_cannot_be_measured_is_not_shown(service: SmallService) -> None:
    away = service.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"})
    found = asyncio.run(_measured_without_kafka(service, away))
    assert found == {}


async def _measured_without_kafka(service: SmallService, settings: object) -> dict[str, TopicLag]:
    db = Database("data", service.url)
    measuring = Lag("data", make_broker(service.settings, db, "data", [service._handlers()]), settings)  # type: ignore[arg-type]
    measuring._behind = {service.topic: (0, None)}  # as if it had been calm
    task = asyncio.create_task(measuring.run())
    async with asyncio.timeout(30):
        while measuring.by_topic():
            await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await db.close()
    return measuring.by_topic()


def test_the_backlog_of_the_database_is_shown(service: SmallService) -> None:
    with psycopg.connect(service.url) as connection:
        connection.execute(
            'INSERT INTO dead_letters (event_id, topic, partition, "offset", type, source, correlationid, state, attempts, '
            "error, event_time, recorded_at, received_at, day, headers) "
            "VALUES ('e', 'gone.topic', 0, 0, 't', 's', 'c', 'dead', 1, 'why', now(), now(), now(), current_date, '[]')"
        )
        connection.execute(
            "INSERT INTO outbox (event_id, topic, headers, correlationid, attempts, created_at, next_try_at) VALUES "
            "('tried', 'training.status', '[]', 'c', 1, now() - interval '1 hour', now() + interval '1 day'), "
            "('next', 'training.status', '[]', 'c', 0, now(), now() + interval '1 day')"
        )
        connection.execute(
            "SELECT procrastinate_defer_jobs_v1(ARRAY[ROW('default', 'elsewhere', 0, NULL, NULL, '{}', NULL)"
            "::procrastinate_job_to_defer_v1])"
        )
        connection.execute("UPDATE procrastinate_events SET at = now() - interval '2 hours'")
    waiting, running = (f'{{service="data",state="{s}",task="elsewhere"}}' for s in ("waiting", "running"))
    with TestClient(service.app(worker=False)) as client:
        wait_until(lambda: waiting in samples(client, "driftwheel_jobs"), "the numbers of jobs")
        jobs = samples(client, "driftwheel_jobs")
        oldest = samples(client, "driftwheel_job_oldest_seconds")
        dead = samples(client, "driftwheel_dead_letters")
        pending = samples(client, "driftwheel_outbox_pending")
        age = samples(client, "driftwheel_outbox_age_seconds")
    assert (jobs[waiting], jobs[running]) == (1, 0)
    assert 7_200 <= oldest[waiting] < 7_300
    assert dead['{service="data",topic="gone.topic"}'] == 1
    assert dead[f'{{service="data",topic="{service.topic}"}}'] == 0
    assert pending['{service="data"}'] == 2
    assert 3_600 <= age['{service="data"}'] < 3_700


def test_a_job_in_hand_is_running_and_one_whose_worker_fell_silent_waits(service: SmallService) -> None:
    with psycopg.connect(service.url) as connection:
        for silent_seconds in (0, 120):
            connection.execute(
                "WITH worker AS (INSERT INTO procrastinate_workers (last_heartbeat) "
                "VALUES (now() - make_interval(secs => %s)) RETURNING id) "
                "INSERT INTO procrastinate_jobs (queue_name, task_name, status, worker_id) "
                "SELECT 'default', 'elsewhere', 'doing', id FROM worker",
                [silent_seconds],
            )
    jobs, oldest = asyncio.run(_backlog(service))
    assert jobs == {"waiting": 1, "running": 1}
    assert 120 <= oldest["waiting"] < 150


async def _backlog(service: SmallService) -> tuple[dict[str, float], dict[str, float]]:
    from shared.telemetry.metrics import JOB_OLDEST_SECONDS, JOBS

    db = Database("data", service.url)
    await backlog.Backlog("data", db, [], stalled_after=10).measure()
    await db.close()
    return tuple(  # type: ignore[return-value]
        {
            sample.labels["state"]: sample.value
            for metric in gauge.collect()
            for sample in metric.samples
            if sample.labels["task"] == "elsewhere"
        }
        for gauge in (JOBS, JOB_OLDEST_SECONDS)
    )
