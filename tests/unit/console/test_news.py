"""News for open pages: who changed since what was seen, after a pause, and after a restart of the console."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi.sse import ServerSentEvent

from services.console.live import Live
from services.console.upstream import Answer
from shared.contracts.topology import SERVICES


class World:
    """Services whose marks a test changes; None is a service that does not answer."""

    def __init__(self) -> None:
        self.marks: dict[str, str | None] = dict.fromkeys(SERVICES, "1")
        self.looks = 0

    async def look(self, _token: str) -> dict[str, Answer]:
        self.looks += 1
        return {
            name: Answer(name, 0) if mark is None else Answer(name, 200, {"ready": True, "mark": mark})
            for name, mark in self.marks.items()
        }

    async def looked(self, times: int = 2) -> None:
        """Until it was looked at that often again."""
        goal = self.looks + times
        async with asyncio.timeout(5):
            while self.looks < goal:
                await asyncio.sleep(0.005)


@pytest.fixture
async def world() -> World:
    return World()


@pytest.fixture
async def live(world: World) -> AsyncIterator[Live]:
    live = Live(world.look, 0.01)
    yield live
    await live.close()


async def heard(stream: AsyncIterator[ServerSentEvent], number: int) -> list[tuple[str | None, str | None]]:
    async with asyncio.timeout(5):
        return [((event := await anext(stream)).event, event.raw_data) for _ in range(number)]


async def test_a_watcher_hears_who_changed_went_and_came_back(world: World, live: Live) -> None:
    stream = live.watch("token")
    assert await heard(stream, 1) == [("hello", "")]
    await world.looked()
    for mark in ("2", None, "3"):
        world.marks["trainer"] = mark
        assert await heard(stream, 1) == [("change", "trainer")]
    await stream.aclose()


async def test_who_comes_back_hears_what_was_missed_and_no_more(world: World, live: Live) -> None:
    first = live.watch("token")
    await anext(first)
    await world.looked()
    world.marks["data"] = "2"
    seen = (await anext(first)).id
    assert seen is not None
    world.marks["monitor"] = "2"
    await anext(first)
    again = live.watch("token", seen)
    assert await heard(again, 2) == [("hello", ""), ("change", "monitor")]
    await again.aclose()
    await first.aclose()


@pytest.mark.parametrize("last", ["another-7", "garbage", "-1", "another-x"])
async def test_after_a_restart_of_the_console_everything_is_news(live: Live, last: str) -> None:
    stream = live.watch("token", last)
    assert await heard(stream, 1 + len(SERVICES)) == [("hello", ""), *(("change", s) for s in SERVICES)]
    await stream.aclose()


async def test_nobody_is_asked_while_nobody_watches(world: World, live: Live) -> None:
    stream = live.watch("token")
    await anext(stream)
    await world.looked()
    await stream.aclose()
    async with asyncio.timeout(5):
        while live._task and not live._task.done():
            await asyncio.sleep(0.005)
    looks = world.looks
    await asyncio.sleep(0.05)
    assert world.looks == looks
