"""Who a message is: by topic, source and id; one at a time or many in one statement."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.contracts.envelope import Envelope
from shared.contracts.errors import Poison
from shared.delivery import inbox
from shared.delivery.inbox import Delivery
from shared.delivery.unit_of_work import Database


@pytest.fixture
async def db(make_kernel_database: Callable[[], str]) -> AsyncIterator[Database]:
    db = Database("data", make_kernel_database())
    yield db
    await db.close()


def message(
    event_id: str,
    source: str = "/crm",
    topic: str = "feedback.recorded",
    body: bytes = b"{}",
    offset: int = 0,
    **changed: Any,
) -> Delivery:
    now = datetime.now(UTC)
    envelope = Envelope(event_id, source, f"{topic}.v1", now, correlationid=event_id, **changed)
    return Delivery(topic, 0, offset, b"k", [("ce_id", event_id.encode())], body, now, now, envelope)


async def claimed(db: Database, *messages: Delivery) -> list[str]:
    async with db.unit_of_work() as work:
        return list(await inbox.claim_many(work, messages))


async def states(db: Database) -> dict[tuple[str, str], str]:
    async with db.unit_of_work() as work:
        found = await work.execute("SELECT source, event_id, state FROM inbox")
        return {(row[0], row[1]): row[2] for row in found}


async def test_two_producers_may_count_from_one(db: Database) -> None:
    for delivery in (message("1", "/crm"), message("1", "/shop"), message("1", "/crm", "training.requested")):
        async with db.unit_of_work() as work:
            assert await inbox.claim(work, delivery, 1)
    async with db.unit_of_work() as work:
        assert not await inbox.claim(work, message("1", "/shop"), 1)


async def test_a_copied_id_does_not_take_the_place_of_the_genuine_event(db: Database) -> None:
    async with db.unit_of_work() as work:
        await inbox.claim(work, message("genuine", "/elsewhere", body=b"forged"), 1)
    async with db.unit_of_work() as work:
        assert await inbox.claim(work, message("genuine", "/serving", body=b"true"), 1)


async def test_many_are_taken_in_one_statement(db: Database) -> None:
    first = [message(str(n), offset=n) for n in range(200)]
    assert await claimed(db, *first) == ["fresh"] * 200
    again = [message(str(n)) for n in range(190, 210)]
    assert await claimed(db, *again) == ["known"] * 10 + ["fresh"] * 10


async def test_of_copies_in_one_batch_the_first_is_taken(db: Database) -> None:
    other = message("b", body=b"[]")
    assert await claimed(db, message("a"), message("b"), message("a"), message("a", "/shop"), other) == [
        "fresh",
        "fresh",
        "known",
        "fresh",
        "reused",
    ]


async def test_an_id_used_with_another_body_is_poison_for_that_one_alone(db: Database) -> None:
    await claimed(db, message("a"))
    assert await claimed(db, message("a", body=b"[]"), message("b")) == ["reused", "fresh"]
    with pytest.raises(Poison):
        async with db.unit_of_work() as work:
            await inbox.claim(work, message("a", body=b"[]"), 1)


async def test_the_dead_are_taken_from_a_batch_only_when_redriven(db: Database) -> None:
    for name in ("a", "b"):
        async with db.unit_of_work() as work:
            assert await inbox.bury(work, "data", message(name), 3, "why")
    redriven = message("b", redriven=True)
    assert await claimed(db, message("a"), redriven, message("c"), redriven) == [
        "known",
        "fresh",
        "fresh",
        "known",
    ]
    assert await states(db) == {("/crm", "a"): "dead", ("/crm", "b"): "done", ("/crm", "c"): "done"}
