"""News for open pages: while somebody watches, look at every service's pulse and say which ones changed."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from fastapi.sse import ServerSentEvent

from services.console.upstream import Answer
from shared.contracts.topology import SERVICES

Look = Callable[[str], Awaitable[Mapping[str, Answer]]]


class Live:
    """One look a second for all watchers together, with the token of one of them.

    An event names a service that changed (or went, or came back) and says nothing else: each page then asks with
    its visitor's own token. Ids are `<life of this process>-<number>`, so a browser that comes back with
    `Last-Event-ID` gets what it missed, and after a restart of the console everything.
    """

    def __init__(self, look: Look, pulse_seconds: float) -> None:
        self._look = look
        self._pause = pulse_seconds
        self._life = uuid.uuid4().hex[:8]
        self._number = 0
        self._changed_at = dict.fromkeys(SERVICES, 0)
        self._marks: dict[str, str] = {}
        self._watchers: dict[object, str] = {}
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def watch(self, token: str, last_event_id: str = "") -> AsyncIterator[ServerSentEvent]:
        """Names of services with news, for as long as the watcher listens."""
        seen = self._missed_since(last_event_id)
        me = object()
        self._watchers[me] = token
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            yield ServerSentEvent(id=self._id(), event="hello", raw_data="")
            while True:
                for service in [name for name, at in self._changed_at.items() if at > seen]:
                    yield ServerSentEvent(id=self._id(), event="change", raw_data=service)
                seen = self._number
                async with self._news:
                    await self._news.wait_for(lambda: self._number > seen)  # noqa: B023 (read at once)
        finally:
            del self._watchers[me]

    async def close(self) -> None:
        if self._task:
            self._task.cancel()

    async def _run(self) -> None:
        while self._watchers:
            await self._take(await self._look(next(reversed(self._watchers.values()))))
            await asyncio.sleep(self._pause)

    async def _take(self, answers: Mapping[str, Answer]) -> None:
        marks = {name: _mark(answer) for name, answer in answers.items()}
        changed = [name for name, mark in marks.items() if self._marks.get(name) != mark]
        first_look, self._marks = not self._marks, marks
        if first_look or not changed:
            return
        self._number += 1
        self._changed_at |= dict.fromkeys(changed, self._number)
        async with self._news:
            self._news.notify_all()

    def _missed_since(self, last_event_id: str) -> int:
        life, _, number = last_event_id.partition("-")
        if not last_event_id:
            return self._number
        return int(number) if life == self._life and number.isdecimal() else -1

    def _id(self) -> str:
        return f"{self._life}-{self._number}"


def _mark(answer: Answer) -> str:
    if answer.data is None:
        return f"status {answer.status}"
    return f"{answer.data['ready']} {answer.data['mark']}"
