"""Every event 0..k times, in any order, with a crash between any two I/Os: the effects are as if all went well once.

And the suite is not blind: mutants of the delivery code are caught by the same property.
"""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from shared.contracts.errors import Superseded
from shared.delivery import inbox
from shared.delivery.relay import Relay
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.jobs.attempts import Attempt
from tests.chaos.history import BrokenHistory, Effect, History, Record, Rule, demand
from tests.service.kernel.harness import Crash, Io, Log, Service, on_feedback, on_status, publish

EXAMPLES = int(os.environ.get("DRIFTWHEEL_INTERLEAVINGS", "60"))
SEED = int(os.environ.get("DRIFTWHEEL_SEED") or secrets.randbelow(2**32))
FEEDBACK = ("f-0", "f-1", "poison-0")
GOOD = ("f-0", "f-1")
TABLES = ("effects", "inbox", "outbox", "sent", "dead_letters", "attempts")
DEAD_LETTERS = "feedback.recorded.data.dlq"

Action = tuple[str, int, int | None]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["first", "second", "first-again", "second-again", "relay-first", "relay-second"]),
        st.integers(0, 4),
        st.none() | st.integers(1, 14),
    ),
    max_size=14,
)


class World:
    """Both services, and one event loop that all examples share."""

    def __init__(self, first_url: str, second_url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.urls = (first_url, second_url)
        self.ack_first = False

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def _fresh(self) -> None:
        self.log = Log()
        self.first = Service("data", self.urls[0], "feedback.recorded", on_feedback)
        self.second = Service("trainer", self.urls[1], "training.status", on_status)
        for service in (self.first, self.second):
            async with service.db.unit_of_work() as work:
                await work.execute("CREATE TABLE IF NOT EXISTS effects (effect text)")
                for table in TABLES:  # a few rows: TRUNCATE would make each partition's files anew
                    await work.execute(f"DELETE FROM {table}")
        for feedback_id in FEEDBACK:
            publish(self.log, feedback_id)

    async def _act(self, action: Action) -> None:
        name, index, crash_at = action
        service = self.first if "first" in name else self.second
        service.io = Io(crash_at)
        service.relay = type(service.relay)(service.name, service.url, lambda: None)  # type: ignore[arg-type]
        before = service.offset
        try:
            if name.startswith("relay"):
                await service.relay_once(self.log)
            elif name.endswith("again"):
                await service.deliver(self.log, index % max(1, len(self.log.records.get(service.topic, []))))
            else:
                if self.ack_first and before < len(self.log.records.get(service.topic, [])):
                    service.offset += 1
                await service.deliver(self.log, before if self.ack_first else None)
        except Crash:
            pass
        finally:
            service.io = Io()

    async def _settle(self) -> None:
        for _ in range(3):
            for service in (self.first, self.second):
                while service.offset < len(self.log.records.get(service.topic, [])):
                    await service.deliver(self.log)
                await service.relay_once(self.log)

    async def _check(self) -> None:
        demand(await self._history())
        dead = self.log.records.get(DEAD_LETTERS, [])
        assert {value for _, value, _ in dead} == {self._body("poison-0")}, "something else died"
        async with self.first.db.unit_of_work() as work:
            states = {row[0]: row[1] for row in await work.execute("SELECT event_id, state FROM inbox")}
        assert states == {f"event-{f}": "dead" if f.startswith("poison") else "done" for f in FEEDBACK}

    async def _history(self) -> History:
        """What both services and the log know in the end; a dead letter's fact is its body, which must be whole."""
        services = (self.first, self.second)
        records = [one for topic in self.log.records for one in self._records(topic)]
        causes = [one for one in records if one.topic != DEAD_LETTERS and one.fact in GOOD]
        return History(
            consumers={service.topic: [service.name] for service in services},
            records=records,
            handled=[row for service in services for row in await service.handled()],
            said=[row for service in services for row in await service.said() if row.topic != DEAD_LETTERS],
            effects=[Effect(service.name, name) for service in services for name in await service.effects()],
            committed={(service.name, service.topic, 0): service.offset for service in services},
            required={
                (service.name, one.identity): [one.fact]
                for service in services
                for one in causes
                if one.topic == service.topic
            },
            accepted={"training.status": GOOD, DEAD_LETTERS: [self._body("poison-0")]},
        )

    def _records(self, topic: str) -> Iterator[Record]:
        for offset, (key, value, headers) in enumerate(self.log.records[topic]):
            named = {name: text.decode() for name, text in headers}
            body = json.loads(value or b"{}")
            fact = value if topic == DEAD_LETTERS else body.get("run_id") or body["feedback_id"]
            yield Record(topic, 0, offset, named.get("ce_source", "/foreign"), named["ce_id"], key, fact)

    def _body(self, feedback_id: str) -> bytes | None:
        return self.log.records["feedback.recorded"][FEEDBACK.index(feedback_id)][1]

    async def _play(self, actions: list[Action]) -> None:
        await self._fresh()
        try:
            for action in actions:
                await self._act(action)
            await self._settle()
            await self._check()
        finally:
            for service in (self.first, self.second):
                await service.db.close()

    def play(self, actions: list[Action]) -> None:
        self.run(self._play(actions))


@pytest.fixture(scope="module")
def world(make_kernel_database: Callable[[], str]) -> Iterator[World]:
    world = World(make_kernel_database(), make_kernel_database())
    yield world
    world.loop.close()


def explore(world: World, examples: int) -> None:
    print(f"DRIFTWHEEL_SEED={SEED} draws the same examples again")

    @seed(SEED)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(ACTIONS)
    def interleave(actions: list[Action]) -> None:
        world.play(actions)

    interleave()


def crash_everywhere(world: World) -> None:
    """The same short story, with a crash at each I/O of a delivery and of the relay in turn."""
    for crash_at in range(1, 15):
        world.play(
            [("first", 0, crash_at), ("first", 0, None), ("relay-first", 0, None), ("second", 0, crash_at)]
        )
    for crash_at in range(1, 6):
        world.play([("first", 0, None), ("first", 0, None), ("relay-first", 0, crash_at)])


def test_effects_happen_once_in_any_order(world: World) -> None:
    explore(world, EXAMPLES)


def test_effects_happen_once_wherever_it_crashes(world: World) -> None:
    crash_everywhere(world)


def broken(world: World, rule: Rule) -> None:
    """The mutant that is in place breaks this rule."""
    with pytest.raises(BrokenHistory) as found:
        crash_everywhere(world)
    assert found.value.rules == {rule}


_CLAIM = inbox.claim


async def _claims_everything(*given: Any) -> bool:
    await _CLAIM(*given)
    return True


@asynccontextmanager
async def _commits_before_the_outbox(database: Database, cause: Any = None) -> AsyncIterator[UnitOfWork]:
    async with _UNIT(database, cause) as work:
        yield work
        kept, work._outgoing = work._outgoing, []
    async with _UNIT(database, cause) as later:
        later._outgoing = kept


_UNIT = Database.unit_of_work


async def _marks_before_sending(self: Any, connection: Any, producer: Any) -> int:
    rows = await (await connection.execute("SELECT * FROM outbox ORDER BY id")).fetchall()
    await connection.execute("DELETE FROM outbox")
    await connection.commit()
    await self._send(producer, rows)
    return len(rows)


def test_mutant_without_inbox_doubles(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "claim", _claims_everything)
    broken(world, "doubled")


def test_mutant_that_acknowledges_before_the_commit_loses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "ack_first", True)
    broken(world, "lost")


def test_mutant_that_commits_before_the_outbox_loses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database, "unit_of_work", _commits_before_the_outbox)
    broken(world, "lost")


def test_mutant_that_marks_before_sending_loses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relay, "_relay_batch", _marks_before_sending)
    broken(world, "lost")


async def _race(database: Database, order: list[int]) -> list[int]:
    """Attempts claimed one after the other write in the given order; returns who wrote, in that order."""
    async with database.unit_of_work() as work:
        await work.execute("CREATE TABLE IF NOT EXISTS written (number int)")
        await work.execute("DELETE FROM written")
        await work.execute("DELETE FROM attempts")
    attempts = [await Attempt.claim(database, "run-1", None) for _ in range(3)]
    for index in order:
        try:
            async with attempts[index].work() as work:
                await work.execute("INSERT INTO written VALUES (:number)", {"number": attempts[index].number})
        except Superseded:
            continue
    async with database.unit_of_work() as work:
        return [row[0] for row in await work.execute("SELECT number FROM written")]


def explore_attempts(world: World) -> None:
    print(f"DRIFTWHEEL_SEED={SEED} draws the same examples again")

    @seed(SEED)
    @settings(
        max_examples=20, deadline=None, database=None, report_multiple_bugs=False, phases=[Phase.generate]
    )
    @given(st.permutations([0, 1, 2]), st.integers(0, 2))
    def race(order: list[int], doubled: int) -> None:
        async def play() -> list[int]:
            database = Database("trainer", world.urls[0])
            try:
                return await _race(database, [*order, doubled])
            finally:
                await database.close()

        written = world.run(play())
        assert written
        assert set(written) == {3}, "a superseded attempt changed something"

    race()


def test_only_the_newest_attempt_writes(world: World) -> None:
    explore_attempts(world)


@asynccontextmanager
async def _unfenced(self: Attempt) -> AsyncIterator[UnitOfWork]:
    async with self.db.unit_of_work(self.cause) as work:
        yield work


def test_mutant_with_stale_lease_writes_is_caught(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attempt, "work", _unfenced)
    with pytest.raises(AssertionError, match="a superseded attempt changed something"):
        explore_attempts(world)
