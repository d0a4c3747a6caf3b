"""From tokens to text: pieces that are whole characters, cut at the first stop string."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from services.serving.engines.transformers_server.sampling import Choice
from services.serving.engines.transformers_server.scheduler import Row

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """Text to append, the choices behind it, and at the end the reason why it ended."""

    text: str
    choices: tuple[Choice, ...] = ()
    finish: Finish | None = None


class Detokenizer:
    """Feeds on tokens, gives out text. Holds back half a character and what may be the start of a stop string."""

    def __init__(self, decode: Callable[[list[int]], str], stops: tuple[str, ...]) -> None:
        self._decode = decode
        self._stops = stops
        self._held = max((len(stop) for stop in stops), default=1) - 1
        self._tokens: list[int] = []
        self._sent = 0

    def feed(self, token: int) -> tuple[str, bool]:
        """The new text, and whether a stop string was reached."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            return self._give(text[: min(found)], 0), True
        return self._give(text.rstrip("\ufffd"), self._held), False

    def end(self) -> str:
        """What was held back."""
        return self._give(self._decode(self._tokens), 0)

    def _give(self, text: str, held: int) -> str:
        new = text[self._sent : len(text) - held]
        self._sent += len(new)
        return new


class Answer:
    """The n texts that answer one request: rows deliver in the scheduler's thread, `pieces` reads in the event loop."""

    def __init__(
        self, n: int, decode: Callable[[list[int]], str], stops: tuple[str, ...], ends: frozenset[int]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Choice | Exception | None]] = asyncio.Queue()
        self._texts = [Detokenizer(decode, stops) for _ in range(n)]
        self._ends = ends
        self.rows: list[Row] = []
        self.tokens = 0

    def receiver(self, index: int) -> Callable[[Choice | Exception | None], None]:
        """What row `index` delivers to."""

        def deliver(item: Choice | Exception | None) -> None:
            # The loop is closed when the server stops under a running answer; nobody reads it then.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, item))

        return deliver

    def cancel(self) -> None:
        """Nobody wants the rest."""
        for row in self.rows:
            row.cancelled = True

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Pieces with the index of their text, as they come; each text's last has a `finish`.

        Raises whatever the network's step raised.
        """
        last: dict[int, Choice] = {}
        unfinished = set(range(len(self._texts)))
        while unfinished:
            index, item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            if index not in unfinished:  # tokens on their way when a stop string ended the text
                continue
            if item is None:
                unfinished.remove(index)
                ended = index in last and last[index].token in self._ends
                yield index, Piece(self._texts[index].end(), (), "stop" if ended else "length")
                continue
            last[index] = item
            self.tokens += 1
            if item.token in self._ends:
                continue
            text, stopped = self._texts[index].feed(item.token)
            if stopped:
                unfinished.remove(index)
                self.rows[index].cancelled = True
            yield index, Piece(text, (item,), "stop" if stopped else None)
