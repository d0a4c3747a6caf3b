"""A dead letter is handled again in the service where it died, and no topic sees it twice."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contracts.events import FeedbackRecorded
from shared.delivery.kafka import connection
from shared.delivery.redrive import Redrive
from shared.operations import dead_letters
from shared.operations.dead_letters import Wanted
from shared.operations.replay import Replay, Start
from tests.kit import until
from tests.service.kernel.test_delivery import Desk, desk, topic

__all__ = ["desk", "topic"]


class Fault:
    """A handler that fails until it is mended."""

    def __init__(self, desk: Desk) -> None:
        self.mended = False
        desk.behaviour = self

    def __call__(self, event: FeedbackRecorded) -> None:
        if event.feedback_id == "sick" and not self.mended:
            raise ValueError("bug")


async def end_of(desk: Desk) -> int:
    consumer = AIOKafkaConsumer(**connection(desk.settings))
    await consumer.start()
    try:
        place = TopicPartition(desk.topic, 0)
        return int((await consumer.end_offsets([place]))[place])
    finally:
        await consumer.stop()


def state_is(desk: Desk, *states: str) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return sorted((await desk.inbox()).values()) == sorted(states)

    return check


async def listed(desk: Desk) -> list[Any]:
    async with desk.db.unit_of_work() as work:
        return list((await dead_letters.newest(work, Wanted(), None, 10))["dead_letters"])


async def test_a_redrive_adds_nothing_to_the_topic_so_the_newest_stays_the_newest(desk: Desk) -> None:
    fault = Fault(desk)
    async with desk.open():
        await desk.send("sick")
        await desk.send("well")
        await until(state_is(desk, "dead", "done"), "the death and the newer event")
        fault.mended = True
        before, tried = await end_of(desk), desk.calls.count("sick")
        [letter] = await listed(desk)
        async with desk.db.unit_of_work() as work:
            assert await dead_letters.redrive(work, letter["event_id"]) == desk.topic
        await until(state_is(desk, "done", "done"), "the second handling")
        assert await end_of(desk) == before
        assert await listed(desk) == []
    assert sorted(await desk.effects()) == ["sick", "well"]
    assert desk.calls.count("sick") == tried + 1


async def test_what_dies_again_is_dead_again_with_all_its_tries(desk: Desk) -> None:
    Fault(desk)
    async with desk.open():
        await desk.send("sick")
        await until(state_is(desk, "dead"), "the death")
        [letter] = await listed(desk)
        async with desk.db.unit_of_work() as work:
            await dead_letters.redrive(work, letter["event_id"])

        async def died_again() -> bool:
            return [one["attempts"] for one in await listed(desk)] == [2 * letter["attempts"]]

        await until(died_again, "the second death")
    assert await desk.effects() == []


async def test_what_could_not_be_read_is_handled_once_it_can_be(desk: Desk, monkeypatch: Any) -> None:
    """The release that died of it did not know version 2; this one does."""
    async with desk.open():
        key, value, headers = desk.event("tomorrow")
        newer = [(n, f"{desk.topic}.v2".encode() if n == "ce_type" else v) for n, v in headers]
        await desk.producer.send_and_wait(desk.topic, value, key=key, headers=newer, partition=0)
        await until(state_is(desk, "dead"), "the death")
        monkeypatch.setattr(FeedbackRecorded, "version", 2)
        plan = await Replay("data", desk.broker, desk.settings).replay(
            desk.db, Start.of(f"{desk.topic}/0/0"), [], dry_run=True
        )
        assert plan["new_effects"] == 1, "its handler would run"
        async with desk.db.unit_of_work() as work:
            await dead_letters.redrive(work, f"{desk.topic}/0/0")

        async def handled() -> bool:
            return await desk.effects() == ["tomorrow"]

        await until(handled, "the effect")
        assert await listed(desk) == []


async def test_a_redriven_one_that_waits_for_long_is_listed(desk: Desk) -> None:
    Fault(desk)
    async with desk.open():
        await desk.send("sick")
        await until(state_is(desk, "dead"), "the death")
    [letter] = await listed(desk)
    async with desk.db.unit_of_work() as work:  # nobody runs who would take it
        await dead_letters.redrive(work, letter["event_id"])
    assert await listed(desk) == []
    async with desk.db.unit_of_work() as work:
        await work.execute("UPDATE dead_letters SET due_at = now() - interval '2 minutes'")
    assert [one["state"] for one in await listed(desk)] == ["redriven"]


async def test_while_a_part_is_away_it_stays_due(desk: Desk) -> None:
    Fault(desk)
    async with desk.open():
        await desk.send("sick")
        await until(state_is(desk, "dead"), "the death")
    [letter] = await listed(desk)
    async with desk.db.unit_of_work() as work:
        await dead_letters.redrive(work, letter["event_id"])

    async def away(_record: Any) -> bool:
        return False

    assert not await Redrive(desk.db, away).next()
    async with desk.db.unit_of_work() as work:
        found = await work.execute("SELECT state, due_at > now() + interval '50 seconds' FROM dead_letters")
        assert [tuple(row) for row in found] == [("redriven", True)]
