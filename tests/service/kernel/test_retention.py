"""Storage is bounded: daily partitions come and go, what was not sent stays, and what is forgotten is never replayed."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from infra.kafka.topics import RETENTION_DAYS
from shared.contracts.envelope import Envelope, new_id
from shared.delivery import inbox
from shared.delivery.inbox import HORIZON, Delivery
from shared.delivery.retention import Retention, remembered_since
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database

A_DAY = timedelta(days=1)
BUDGET = 900
"""Bytes that one answer may take in all outboxes and inboxes: its event in one, its handling in two."""
CONSUMERS = 2


@pytest.fixture
async def db(make_kernel_database: Callable[[], str]) -> AsyncIterator[Database]:
    db = Database("data", make_kernel_database())
    yield db
    await db.close()


@pytest.fixture
def retention(db: Database) -> Retention:
    return Retention(db, DeliverySettings())


def answer(
    at: datetime, source: str = "/serving", event_id: str | None = None, body: bytes = b"{}"
) -> Delivery:
    event_id = event_id or new_id()
    envelope = Envelope(event_id, source, "prediction.served.v1", at, correlationid=event_id)
    return Delivery("prediction.served", 0, 0, b"k", [], body, at, at, envelope, refs=None)


async def rows(db: Database, query: str) -> list[Any]:
    async with db.unit_of_work() as work:
        return [tuple(row) for row in await work.execute(query)]


async def claimed(db: Database, *messages: Delivery) -> list[str]:
    async with db.unit_of_work() as work:
        return list(await inbox.claim_many(work, messages))


async def fill(db: Database, day: date, answers: int) -> None:
    """A day of answers as their events are handled and sent; ids as long and as ordered as real ones."""
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    await claimed(db, *(answer(at + n * timedelta(seconds=1)) for n in range(answers)))
    async with db.unit_of_work() as work:
        await (await work.raw()).execute(
            """
            INSERT INTO sent (created_at, sent_at, "offset", partition, bytes, event_id, topic)
            SELECT received_at, received_at, 1, 0, 500, event_id, topic FROM inbox WHERE day = %s ORDER BY event_id
            """,
            [day],
        )


async def stored(db: Database, parent: str, day: date | None = None) -> int:
    """Bytes of a table, or of one day of it, indexes included."""
    name = f"{parent}_{day:%Y%m%d}" if day else f"{parent}_%"
    query = f"""
        SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = '{parent}'::regclass
            AND relname LIKE '{name}'
    """
    [(size,)] = await rows(db, query)
    return int(size)


async def test_an_answer_takes_little_and_ninety_days_more_take_no_more(
    db: Database, retention: Retention
) -> None:
    """Ten days stand for the hundred that are kept: the same code, another number."""
    retention._settings = DeliverySettings.model_construct(keep_days=10, keep_dead_days=5)
    today = datetime.now(UTC).date()
    sizes: list[int] = []
    for number in range(90):
        day = today + number * A_DAY
        await retention.keep(day)
        await fill(db, day, 300)
        if number >= 12:
            sizes.append(await stored(db, "inbox") + await stored(db, "sent"))
    assert max(sizes) < 1.1 * min(sizes), "it grows"
    [(oldest,)] = await rows(db, "SELECT min(day) FROM inbox")
    assert oldest == today + 79 * A_DAY
    await fill(db, day + A_DAY, 10_000)
    handled, sent = await stored(db, "inbox", day + A_DAY), await stored(db, "sent", day + A_DAY)
    assert (CONSUMERS * handled + sent) / 10_000 <= BUDGET, (handled, sent)


async def test_what_was_not_sent_outlives_every_partition(db: Database, retention: Retention) -> None:
    from shared.contracts.events import TrainingStatus

    async with db.unit_of_work() as work:
        work.emit(TrainingStatus(model="support", state="accepted", run_id="r"))
    await retention.keep(datetime.now(UTC).date() + timedelta(days=400))
    assert len(await rows(db, "SELECT FROM outbox")) == 1


async def test_a_message_is_recognised_for_as_long_as_kafka_can_bring_it(
    db: Database, retention: Retention
) -> None:
    now = datetime.now(UTC)
    message = answer(now)
    await claimed(db, message)
    longest = timedelta(days=RETENTION_DAYS["event"] + RETENTION_DAYS["dead letter"])
    await retention.keep((now + longest).date())
    assert await claimed(db, message) == ["known"]
    async with db.unit_of_work() as work:
        assert await remembered_since(work) is None or (await remembered_since(work)) < now


def test_no_setting_forgets_what_can_still_come() -> None:
    least = RETENTION_DAYS["event"] + RETENTION_DAYS["dead letter"] + HORIZON.days + 1
    with pytest.raises(ValueError, match="keep_days"):
        DeliverySettings(keep_days=least - 1)
    assert DeliverySettings(keep_days=least).keep_days == least


async def test_a_day_without_a_partition_loses_nothing_and_moves_later(
    db: Database, retention: Retention
) -> None:
    later = datetime.now(UTC) + timedelta(days=40)
    message = answer(later)
    assert await claimed(db, message, message) == ["fresh", "known"]
    assert await rows(db, "SELECT count(*) FROM inbox_default") == [(1,)]
    await retention.keep(datetime.now(UTC).date())
    assert await rows(db, "SELECT count(*) FROM inbox_default") == [(0,)]
    assert await claimed(db, message) == ["known"]


async def test_a_copy_is_known_whatever_day_it_comes(db: Database) -> None:
    """Ours by its time, which never changes; a foreign one by looking around, since its producer may date it anew."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    ours = answer(midnight - timedelta(seconds=1), event_id="o")
    again = Delivery(**{**vars(ours), "recorded_at": midnight + timedelta(days=3), "offset": 9})
    assert await claimed(db, ours) == ["fresh"]
    assert await claimed(db, again) == ["known"], "Kafka got it again, three days later"
    assert await claimed(db, answer(midnight - timedelta(seconds=1), "/crm", "f")) == ["fresh"]
    assert await claimed(db, answer(midnight + timedelta(seconds=1), "/crm", "f")) == ["known"]
    assert await claimed(db, answer(midnight + timedelta(days=6), "/crm", "f")) == ["known"]
    assert await claimed(db, answer(midnight + timedelta(days=1), "/crm", "f", b"[]")) == ["reused"]


@pytest.mark.parametrize("year", [1, 1969, 9999])
def test_any_time_has_a_day(year: int) -> None:
    at = datetime(year, 6, 1, tzinfo=UTC)
    assert isinstance(answer(at).day, date)
    now = datetime.now(UTC)
    odd = Delivery(**{**vars(answer(now)), "envelope": Envelope("e", "/crm", "t", at, correlationid="e")})
    assert abs(odd.day - now.date()) <= timedelta(days=8)


async def test_two_processes_keep_at_once_without_harm(db: Database, retention: Retention) -> None:
    import asyncio

    later = datetime.now(UTC).date() + timedelta(days=30)
    await asyncio.gather(*(retention.keep(later) for _ in range(4)))
    names = await rows(db, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'inbox'::regclass")
    assert names[0][0] >= 9


async def test_rows_of_before_come_with_the_upgrade(postgres: Any) -> None:
    """The tables of the release before, with a message in every state, become partitions, a queue and dead letters."""
    from tests.service.kernel.upgrading import upgraded_with

    url = upgraded_with(
        postgres.fresh_database(),
        "0005",
        """
        INSERT INTO outbox (event_id, topic, headers, body, correlationid, refs, sent_at, partition, "offset") VALUES
            ('sent', 'training.status', '[]', '{}', 'story', '{r-1}', now(), 1, 7),
            ('waits', 'training.status', '[]', '{}', 'waits', '{}', NULL, NULL, NULL);
        INSERT INTO inbox (event_id, topic, partition, "offset", type, source, correlationid, body_sha256, state, error,
            event_time, recorded_at, received_at, key, headers, body)
        SELECT state, 'dataset.ready', 0, n, 'dataset.ready.v1', '/data', 'story', sha256('{}'), state, 'why', now(), now(),
            now(), 'k', '[]', '{}' FROM (VALUES (1, 'done'), (2, 'dead'), (3, 'redriven')) AS v (n, state);
        """,
    )
    with psycopg.connect(url) as connection:
        assert connection.execute('SELECT event_id, correlationid, refs, "offset" FROM sent').fetchall() == [
            ("sent", "story", ["r-1"], 7)
        ]
        assert connection.execute("SELECT event_id FROM outbox").fetchall() == [("waits",)]
        assert connection.execute('SELECT state FROM inbox ORDER BY "offset"').fetchall() == [
            ("done",),
            ("dead",),
            ("redriven",),
        ]
        assert connection.execute('SELECT state, body FROM dead_letters ORDER BY "offset"').fetchall() == [
            ("dead", b"{}"),
            ("redriven", b"{}"),
        ]
        assert connection.execute("SELECT count(*) FROM inbox_default").fetchone() == (0,)
    db = Database("data", url)
    now = datetime.now(UTC)
    known = Delivery(
        "dataset.ready",
        0,
        1,
        b"k",
        [],
        b"{}",
        now,
        now,
        Envelope("done", "/data", "t", now, correlationid="story"),
    )
    assert await claimed(db, known) == ["known"], "the digest of its body came along"
    await db.close()
