"""What a process says of itself: each part by name, with its state; and which of them make it unready."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

import structlog

from shared.contracts.text import Json
from shared.delivery.consumer import TopicConsumer
from shared.delivery.failures import classify
from shared.delivery.unit_of_work import Database
from shared.operations.lag import Lag

log = structlog.get_logger()
_PING_SECONDS = 2.0
_MOST_PAUSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that runs here, or that is needed.

    Attributes:
        name: `database`, `kafka`, `consumer <topic>`, or the name of a loop that runs in the background.
        state: `running`, `starting`, `waiting` (for a part that is away), `stopped` (at its limit), `failing` (again and
            again, for a reason of its own).
        detail: what it waits for, or why it stopped or fails.
    """

    name: str
    state: str
    detail: str = ""

    @property
    def well(self) -> bool:
        return self.state == "running"

    def __str__(self) -> str:
        return f"{self.name}: {self.state}{f' ({self.detail})' if self.detail else ''}"

    def to_json(self) -> Json:
        return {"name": self.name, "state": self.state, "detail": self.detail}


class Loop:
    """Runs a coroutine for ever: one that ends or fails is started again, and says so.

    Args:
        waits_for: what the coroutine itself waits for, if it goes on trying by itself; empty for nothing.
    """

    def __init__(
        self, name: str, run: Callable[[], Awaitable[None]], waits_for: Callable[[], str] = str
    ) -> None:
        self._run = run
        self._waits_for = waits_for
        self._part = Part(name, "running")

    @property
    def part(self) -> Part:
        if self._part.well and (away := self._waits_for()):
            return Part(self._part.name, "waiting", away)
        return self._part

    async def keep(self) -> None:
        pause = 0.5
        while True:
            well = asyncio.get_running_loop().call_later(
                _MOST_PAUSE_SECONDS, self._turn, Part(self._part.name, "running")
            )
            try:
                await self._run()
            except Exception as error:
                failure = classify(error)
                state = "waiting" if failure.kind == "outage" else "failing"
                self._turn(Part(self._part.name, state, failure.part or type(error).__name__))
                log.exception("background.failed", loop=self._part.name, seconds=pause)
            finally:
                well.cancel()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MOST_PAUSE_SECONDS)

    def _turn(self, part: Part) -> None:
        self._part = part


class Health:
    """The parts of a process.

    Args:
        needs: names of the parts without which its HTTP edge cannot answer. Any other trouble is reported, and takes
            nobody away from users.
        unready: further reasons why it cannot answer.
    """

    def __init__(
        self,
        db: Database,
        consumers: Iterable[TopicConsumer],
        lag: Lag,
        loops: Iterable[Loop],
        needs: Collection[str],
        unready: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self.started = False
        self.stopping = False
        self._db = db
        self._consumers = list(consumers)
        self._lag = lag
        self._loops = list(loops)
        self._needs = needs
        self._unready = unready

    async def parts(self) -> list[Part]:
        consumers = [Part(f"consumer {c.topic}", c.state.name, c.state.detail) for c in self._consumers]
        quarantines = [
            Part(f"consumer {c.topic}", "waiting", f"{number} sources in quarantine")
            for c in self._consumers
            if (number := len(c.quarantined))
        ]
        loops = [loop.part for loop in self._loops]
        return [await self.database(), *self._kafka(), *consumers, *quarantines, *loops]

    async def database(self) -> Part:
        try:
            await asyncio.wait_for(self._db.ping(), _PING_SECONDS)
        except Exception as error:  # noqa: BLE001 (any failure means the same: it is away)
            return Part("database", "waiting", type(error).__name__)
        return Part("database", "running")

    async def reasons(self, parts: Iterable[Part]) -> list[str]:
        """Why this service cannot answer; empty when it can."""
        if not self.started or self.stopping:
            return ["stopping" if self.stopping else "starting"]
        missing = [str(part) for part in parts if part.name in self._needs and not part.well]
        return [*missing, *await self._unready()]

    def _kafka(self) -> list[Part]:
        if not self._consumers:
            return []
        if self._lag.unread is None:
            return [Part("kafka", "waiting", "it did not say how far the groups are")]
        return [Part("kafka", "running")]
