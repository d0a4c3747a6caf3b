"""The list of a service's events: what it sent and what came from outside, newest first, from an index."""

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from shared.contracts.events import ModelPromoted, TrainingStatus
from shared.delivery.unit_of_work import Database
from shared.http.keyset import Cursor
from shared.operations import event_log

FOREIGN = """
INSERT INTO inbox (event_id, topic, partition, "offset", source, body_digest, state, refs, day, recorded_at, received_at)
VALUES (%(id)s, 'training.requested', 0, 7, %(source)s, 0, 'done', ARRAY['r-1'], current_date, now(), now())
"""


@pytest.fixture
async def db(make_kernel_database: Callable[[], str]) -> AsyncIterator[Database]:
    db = Database("trainer", make_kernel_database())
    yield db
    await db.close()


async def emit(db: Database, run_id: str) -> str:
    async with db.unit_of_work() as work:
        return work.emit(TrainingStatus(model="support", state="accepted", run_id=run_id))


async def events(db: Database, **asked: Any) -> Any:
    async with db.unit_of_work() as work:
        return await event_log.newest(work, "trainer", **asked)


async def test_what_was_sent_and_what_came_from_outside_is_one_list(db: Database) -> None:
    first = await emit(db, "r-1")
    async with db.unit_of_work() as work:
        raw = await work.raw()
        await raw.execute(FOREIGN, {"id": "crm-1", "source": "/crm"})
        await raw.execute(FOREIGN, {"id": "ours", "source": "/data"})
    last = await emit(db, "r-2")
    found = (await events(db))["events"]
    assert [row["event_id"] for row in found] == [last, "crm-1", first]
    assert [row["state"] for row in found] == ["waiting", "received", "waiting"]
    assert found[0]["source"] == "/trainer"
    assert (
        found[0]["payload"]
        == {"model": "support", "state": "accepted", "run_id": "r-2"} | found[0]["payload"]
    )
    assert (found[1]["source"], found[1]["offset"]) == ("/crm", 7)


async def test_states_tell_what_became_of_an_event(db: Database) -> None:
    ids = [await emit(db, f"r-{n}") for n in range(3)]
    async with db.unit_of_work() as work:
        raw = await work.raw()
        await raw.execute(
            "WITH gone AS (DELETE FROM outbox WHERE event_id = %s RETURNING *) INSERT INTO sent (event_id, topic, refs, "
            'created_at, sent_at, partition, "offset", bytes) '
            "SELECT event_id, topic, refs, created_at, now(), 2, 118, 9 FROM gone",
            [ids[0]],
        )
        await raw.execute(
            "UPDATE outbox SET dead_at = now(), error = 'InvalidTopicError' WHERE event_id = %s", [ids[1]]
        )
    found = {row["event_id"]: row for row in (await events(db))["events"]}
    assert [found[i]["state"] for i in ids] == ["sent", "never sent", "waiting"]
    assert (found[ids[0]]["partition"], found[ids[0]]["offset"]) == (2, 118)
    assert found[ids[1]]["error"] == "InvalidTopicError"


async def test_pages_lose_nothing_even_of_one_moment(db: Database) -> None:
    async with db.unit_of_work() as work:
        ids = {
            work.emit(TrainingStatus(model="support", state="accepted", run_id=f"r-{n}")) for n in range(7)
        }
    seen: list[str] = []
    after = None
    while True:
        found = await events(db, after=Cursor.of(after), limit=3)
        seen += [row["event_id"] for row in found["events"]]
        if (after := found["next"]) is None:
            break
    assert len(seen) == 7
    assert set(seen) == ids


async def test_an_event_is_found_by_any_id_and_by_its_topic(db: Database) -> None:
    event_id = await emit(db, "r-1")
    await emit(db, "r-2")
    async with db.unit_of_work() as work:
        await (await work.raw()).execute(FOREIGN, {"id": "crm-1", "source": "/crm"})
    assert [row["event_id"] for row in (await events(db, any_id="r-1"))["events"]] == ["crm-1", event_id]
    assert [row["event_id"] for row in (await events(db, any_id=event_id))["events"]] == [event_id]
    assert [row["event_id"] for row in (await events(db, any_id="crm-1"))["events"]] == ["crm-1"]
    assert (await events(db, any_id="r-3"))["events"] == []
    assert len((await events(db, topic=TrainingStatus.topic))["events"]) == 2
    assert (await events(db, topic=ModelPromoted.topic))["events"] == []


@pytest.fixture(scope="module")
def large(make_kernel_database: Callable[[], str]) -> str:
    """50,000 rows on each side: enough that reading all of them is never the cheapest plan."""
    url = make_kernel_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("""
            INSERT INTO outbox (event_id, topic, headers, correlationid, refs, created_at)
            SELECT 'w-' || n, 'model.trained', '[]', 'c-' || n, ARRAY['r-' || n % 1000], now() - n * interval '1 second'
            FROM generate_series(1, 20000) AS n;
            INSERT INTO sent (event_id, topic, correlationid, refs, created_at, sent_at, partition, "offset", bytes)
            SELECT 'e-' || n, CASE WHEN n % 9999 = 0 THEN 'model.promoted' ELSE 'prediction.logged' END, 'c-' || n,
                ARRAY['r-' || n % 1000], now() - n * interval '1 second', now(), 0, n, 9
            FROM generate_series(1, 50000) AS n;
            INSERT INTO inbox (event_id, topic, partition, "offset", source, correlationid, refs, body_digest, state, day,
                recorded_at, received_at)
            SELECT 'e-' || n, 'feedback.recorded', 0, n, CASE WHEN n % 99 = 0 THEN '/crm' ELSE '/data' END, 'c-' || n,
                ARRAY['r-' || n % 1000], 0, 'done', current_date, now(), now()
            FROM generate_series(1, 50000) AS n;
        """)
        connection.execute("ANALYZE inbox, outbox, sent")
    return url


@pytest.mark.parametrize("topic", [None, "model.promoted", "no.such.topic"])
@pytest.mark.parametrize("any_id", [None, "r-7", "e-12", "never-seen"])
@pytest.mark.parametrize("after", [None, "2099-01-01T00:00:00+00:00~e-1"])
async def test_no_question_reads_a_whole_table(
    large: str, monkeypatch: pytest.MonkeyPatch, topic: str | None, any_id: str | None, after: str | None
) -> None:
    plans: list[str] = []

    async def explained(work: Any, query: str, parameters: Any) -> list[Any]:
        plan = await (await (await work.raw()).execute(f"EXPLAIN {query}", parameters)).fetchall()
        plans.append("\n".join(row[0] for row in plan))
        return []

    monkeypatch.setattr(event_log, "_rows", explained)
    db = Database("trainer", large)
    await events(db, topic=topic, any_id=any_id, after=Cursor.of(after))
    await db.close()
    assert len(plans) >= 3
    for plan in plans:
        read = [int(rows) for rows in re.findall(r"Seq Scan on .*rows=(\d+)", plan)]
        assert all(rows < 1_000 for rows in read), plan  # an empty partition is read whole
