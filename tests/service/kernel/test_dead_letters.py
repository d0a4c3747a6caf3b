"""Dead letters are found, read and sent again: one or a thousand, each handled once in effect. Real Kafka and PostgreSQL."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from shared.contracts.errors import Conflict, Invalid, NotFound
from shared.contracts.events import FeedbackRecorded
from shared.delivery.unit_of_work import Database
from shared.http.keyset import Cursor
from shared.operations import dead_letters
from shared.operations.dead_letters import SHOWN_BYTES, Wanted, readable
from tests.kit import until
from tests.service.kernel.harness import Crash, Io, Log, Service, counted, on_feedback, publish
from tests.service.kernel.test_delivery import Desk, desk, topic

__all__ = ["desk", "topic"]
MANY = 1_000


@pytest.fixture
async def db(make_kernel_database: Callable[[], str]) -> AsyncIterator[Database]:
    db = Database("data", make_kernel_database())
    yield db
    await db.close()


async def bury(db: Database, count: int, **columns: Any) -> None:
    """Dead letters `d-000`, `d-001`, …: one a second, the last one the newest."""
    row: dict[str, Any] = {
        "topic": "feedback.recorded",
        "source": "/crm",
        "correlationid": "c",
        "error": "ValueError in the handler; see the log.",
        "headers": '[["ce_source", "/crm"], ["ce_redrivenat", "before"], ["x", {"base64": "/w=="}]]',
        "body": b"{}",
        "name": "d",
        **columns,
    }
    insert = """
        WITH died AS (
            INSERT INTO dead_letters (event_id, topic, partition, "offset", type, source, correlationid, state, attempts,
                error, event_time, recorded_at, received_at, handled_at, day, key, headers, body)
            SELECT %(name)s || '-' || lpad(n::text, 3, '0'), %(topic)s, ascii(%(name)s), n, 't', %(source)s,
                %(correlationid)s, 'dead', 1, %(error)s, now(), now(), now(),
                timestamptz '2026-01-01Z' + n * interval '1 second', current_date, 'k', %(headers)s::jsonb, %(body)s
            FROM generate_series(0, %(count)s - 1) AS n
            RETURNING *
        )
        INSERT INTO inbox (event_id, topic, partition, "offset", source, body_digest, state, day, recorded_at, received_at)
        SELECT event_id, topic, partition, "offset", source, 0, state, day, recorded_at, received_at FROM died
    """
    async with db.unit_of_work() as work:
        await (await work.raw()).execute(insert, {**row, "count": count})


async def rows(db: Database, query: str) -> list[Any]:
    async with db.unit_of_work() as work:
        return await (await (await work.raw()).execute(query)).fetchall()


async def listed(db: Database, wanted: Wanted, after: str | None = None, limit: int = 100) -> Any:
    async with db.unit_of_work() as work:
        return await dead_letters.newest(work, wanted, Cursor.of(after), limit)


async def test_pages_are_newest_first_and_lose_nothing(db: Database) -> None:
    await bury(db, 5)
    await bury(db, 5, name="e")  # the same times: the id decides
    seen: list[str] = []
    after = None
    while True:
        found = await listed(db, Wanted(), after, limit=3)
        seen += [letter["event_id"] for letter in found["dead_letters"]]
        if (after := found["next"]) is None:
            break
    assert seen == [f"{name}-{n:03}" for n in range(4, -1, -1) for name in "ed"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(topic="dataset.ready"), {"t"}),
        (Wanted(source="/shop"), {"s"}),
        (Wanted(correlation="c-2"), {"c"}),
        (Wanted(error="100% OF"), {"e"}),
        (Wanted(error="100_"), set()),
        (Wanted(error="a\\b"), {"b"}),
        (Wanted(topic="dataset.ready", source="/shop"), set()),
        (Wanted(error="'; DROP TABLE inbox; --"), set()),
    ],
)
async def test_filters_match_what_they_say(db: Database, wanted: Wanted, found: set[str]) -> None:
    await bury(db, 1, name="t", topic="dataset.ready")
    await bury(db, 1, name="s", source="/shop")
    await bury(db, 1, name="c", correlationid="c-2")
    await bury(db, 1, name="e", error="Too much: 100% of it.")
    await bury(db, 1, name="b", error="C:\\a\\b")
    shown = await listed(db, wanted)
    assert {letter["event_id"].split("-")[0] for letter in shown["dead_letters"]} == found


@pytest.mark.parametrize(
    "after", ["x", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z", "~", "2026-01-01T00:00:00Z~\x00"]
)
def test_an_end_of_no_page_is_refused(after: str) -> None:
    with pytest.raises(Invalid):
        Cursor.of(after)


async def test_a_letter_is_shown_whole_but_bounded_and_its_payload_only_to_some(db: Database) -> None:
    await bury(db, 1, body=b'{"text": "' + "é".encode() * SHOWN_BYTES + b'"}')
    async with db.unit_of_work() as work:
        letter = await dead_letters.one(work, "d-000", with_payload=True)
        withheld = await dead_letters.one(work, "d-000", with_payload=False)
        with pytest.raises(NotFound):
            await dead_letters.one(work, "d-999", with_payload=True)
    assert letter["payload"]["bytes"] == letter["bytes"] == 2 * SHOWN_BYTES + 12
    assert letter["payload"]["cut"]
    assert letter["payload"]["text"].endswith("é"), "cut between characters, not inside one"
    assert letter["key"]["text"] == "k"
    assert letter["headers"][0] == ["ce_source", "/crm"]
    assert (withheld["payload"], withheld["payload_needs"]) == (None, "admin")
    assert (withheld["error"], withheld["topic"], withheld["offset"]) == (
        letter["error"],
        "feedback.recorded",
        0,
    )


def test_bytes_that_are_no_text_are_base64() -> None:
    assert readable(b"\xff\xfe", 2) == {"encoding": "base64", "text": "//4=", "bytes": 2, "cut": False}
    assert readable(b"\xc3", 1)["encoding"] == "base64", "an incomplete character at the true end is no text"
    assert readable(b"a\xc3", 9) == {"encoding": "utf-8", "text": "a", "bytes": 9, "cut": True}


async def test_a_dry_run_counts_and_changes_nothing(db: Database) -> None:
    await bury(db, 3)
    await bury(db, 2, name="t", topic="dataset.ready", error="Invalid event: score")
    async with db.unit_of_work() as work:
        told = await dead_letters.matching(work, Wanted(), limit=4)
    assert (told["matching"], told["messages"]) == (5, 4)
    assert {g["topic"]: g["messages"] for g in told["by_topic"]} == {
        "feedback.recorded": 3,
        "dataset.ready": 2,
    }
    assert {g["error"]: g["messages"] for g in told["by_error"]} == {
        "ValueError in the handler; see the log.": 3,
        "Invalid event: score": 2,
    }
    assert told["first"] == ["d-000", "t-000", "d-001", "t-001"]
    assert await rows(db, "SELECT DISTINCT state FROM inbox") == [("dead",)]
    assert await rows(db, "SELECT FROM outbox") == []


async def test_many_leave_in_order_at_the_rate_asked_for_and_once(db: Database) -> None:
    await bury(db, 10)
    async with db.unit_of_work() as work:
        told = await dead_letters.redrive_many(work, Wanted(topic="feedback.recorded"), 8, per_second=2)
        again = await dead_letters.redrive_many(work, Wanted(correlation="other"), 8, per_second=2)
    due = await rows(
        db, "SELECT event_id, due_at FROM dead_letters WHERE state = 'redriven' ORDER BY due_at, event_id"
    )
    assert [row[0] for row in due] == [f"d-{n:03}" for n in range(8)]
    assert [(row[1] - due[0][1]).total_seconds() for row in due] == [n / 2 for n in range(8)]
    assert (told["messages"], told["until"]) == (8, due[-1][1])
    assert (again["messages"], again["until"]) == (0, None)
    assert Counter(await rows(db, "SELECT state FROM inbox")) == {("redriven",): 8, ("dead",): 2}
    assert await rows(db, "SELECT FROM outbox") == [], "nothing goes through Kafka"
    with pytest.raises(Conflict):
        async with db.unit_of_work() as work:
            await dead_letters.redrive(work, "d-000")


async def test_two_redrives_at_once_share_the_letters(db: Database) -> None:
    await bury(db, 200)

    async def redrive() -> int:
        async with db.unit_of_work() as work:
            told = await dead_letters.redrive_many(work, Wanted(), 1_000, per_second=1_000)
        return int(told["messages"])

    assert sum(await asyncio.gather(*(redrive() for _ in range(4)))) == 200
    assert await rows(db, "SELECT count(*) FROM dead_letters WHERE state = 'redriven'") == [(200,)]


async def test_a_crash_anywhere_in_a_redrive_loses_nothing(make_kernel_database: Callable[[], str]) -> None:
    """Marked in both tables, or in neither; whatever the I/O at which the process dies, the next try ends it."""
    service = Service("data", make_kernel_database(), "feedback.recorded", on_feedback)
    log = Log()
    async with service.db.unit_of_work() as work:
        await work.execute("CREATE TABLE effects (effect text)")
    crash_at = 0
    while True:
        crash_at += 1
        name = f"poison-{crash_at}"
        publish(log, name)
        await service.deliver(log)
        service.io = Io(crash_at)
        try:
            with counted(service.io):
                async with service.db.unit_of_work() as work:
                    await dead_letters.redrive_many(work, Wanted(), 10, per_second=1_000)
            finished = True
        except Crash:
            finished = False
        states = await rows(service.db, f"SELECT state FROM inbox WHERE event_id = 'event-{name}'")
        letters = await rows(service.db, f"SELECT state FROM dead_letters WHERE event_id = 'event-{name}'")
        assert states == letters, f"torn by a crash at {crash_at}"
        async with service.db.unit_of_work() as work:
            await work.execute("UPDATE inbox SET state = 'done' WHERE state <> 'done'")
            await work.execute("DELETE FROM dead_letters")
        if finished:
            break
    assert crash_at > 3, "the redrive has I/Os to die at"
    await service.db.close()


@pytest.mark.soak
async def test_a_thousand_are_handled_again_once_each(desk: Desk) -> None:
    broken = True

    def fail_while_broken(_event: FeedbackRecorded) -> None:
        if broken:
            raise ValueError("bug")

    desk.behaviour = fail_while_broken
    desk.settings = desk.settings.model_copy(update={"dead_in_a_row": 10 * MANY, "dead_ratio": 1})
    wanted = Wanted(error="VALUEERROR")

    async def all_are(state: str) -> bool:
        return Counter((await desk.inbox()).values())[state] == MANY

    async with desk.open():
        sending = [
            desk.producer.send(desk.topic, value, key=key, headers=headers, partition=0)
            for key, value, headers in (desk.event(f"n-{n:04}") for n in range(MANY))
        ]
        await asyncio.gather(*[await future for future in sending])
        await until(lambda: all_are("dead"), "a thousand deaths", 180)
        broken = False
        desk.calls.clear()
        async with desk.db.unit_of_work() as work:
            dry = await dead_letters.matching(work, wanted, 10_000)
        assert dry["messages"] == MANY
        assert await all_are("dead")
        async with desk.db.unit_of_work() as work:
            assert (await dead_letters.redrive_many(work, wanted, 10_000, per_second=1_000))[
                "messages"
            ] == MANY
        async with desk.db.unit_of_work() as work:
            assert (await dead_letters.redrive_many(work, wanted, 10_000, per_second=1_000))["messages"] == 0
        await until(lambda: all_are("done"), "a thousand effects", 180)
        await desk.send("after")
        await until(lambda: _seen(desk, "after"), "the event after")
    assert Counter(await desk.effects()) == Counter([*(f"n-{n:04}" for n in range(MANY)), "after"])
    assert len(desk.calls) == MANY + 1, "each was handled once"


async def _seen(desk: Desk, name: str) -> bool:
    return name in await desk.effects()


def test_the_lists_are_read_from_an_index(make_kernel_database: Callable[[], str]) -> None:
    with psycopg.connect(make_kernel_database(), autocommit=True) as connection:
        began = time.monotonic()
        connection.execute("""
            INSERT INTO dead_letters (event_id, topic, partition, "offset", type, source, correlationid, state, attempts, error,
                event_time, recorded_at, received_at, day, headers, handled_at)
            SELECT 'e-' || n, 'feedback.recorded', 0, n, 't', '/data', 'c-' || n, 'dead', 1, 'why', now(), now(), now(),
                current_date, '[]', now() - n * interval '1 second'
            FROM generate_series(1, 50000) AS n
        """)
        connection.execute("ANALYZE dead_letters")
        query = dead_letters._LIST.format(where="state = 'dead' AND (handled_at, event_id) < (now(), 'x')")
        plan = connection.execute(f"EXPLAIN {query}", {"limit": 50}).fetchall()
    assert "dead_letters_newest" in str(plan), plan
    assert "Seq Scan" not in str(plan)
    assert time.monotonic() - began < 20
