"""Continuous batching in one thread: requests join and leave the running batch between any two steps.

The event loop submits rows and receives their tokens; everything that touches the network runs in the thread.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch
from torch import Tensor

from services.serving.engines.transformers_server.adapters import Adapter
from services.serving.engines.transformers_server.model import Batch, Model
from services.serving.engines.transformers_server.sampling import Choice, NotFinite, choose

log = structlog.get_logger()

# Tokens of prompts read at once: bounds how long the running answers pause when others join.
_PREFILL_TOKENS = 1_024


class QueueFull(Exception):
    """Too many requests wait already."""


@dataclass(eq=False)
class Row:
    """One answer being written.

    Attributes:
        prompt: token ids.
        ends: token ids that end the answer; they are delivered, too.
        generator: draws the tokens when `temperature` > 0.
        deliver: called in the scheduler's thread with each choice; at the end with None, or with what went wrong.
        cancelled: set by anyone at any time; the row leaves before the next step.
    """

    prompt: list[int]
    adapter: Adapter | None
    max_tokens: int
    temperature: float
    top_p: float
    generator: torch.Generator | None
    ends: frozenset[int]
    deliver: Callable[[Choice | Exception | None], None]
    cancelled: bool = False
    count: int = 0


class Scheduler:
    """Owns the network and the thread that computes."""

    def __init__(self, model: Model, max_rows: int, max_queued: int) -> None:
        self._model = model
        self._max_rows = max_rows
        self._max_queued = max_queued
        self._waiting: deque[Row] = deque()
        self._tasks: deque[tuple[Path, Future[Adapter]]] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._joining: list[Row] = []
        self._rows: list[Row] = []
        self._batch: Batch | None = None
        self._last = torch.empty(0, dtype=torch.long)
        self.tokens = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present step; rows that are not finished get no more tokens."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=10)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def running(self) -> int:
        return len(self._rows)

    @property
    def queued(self) -> int:
        return len(self._waiting)

    def submit(self, rows: Sequence[Row]) -> None:
        """Raises QueueFull."""
        if self.queued + len(rows) > self._max_queued:
            raise QueueFull
        self._waiting.extend(rows)
        self._wake.set()

    async def read(self, folder: Path) -> Adapter:
        """Read an adapter between two steps. Raises BadAdapter."""
        future: Future[Adapter] = Future()
        self._tasks.append((folder, future))
        self._wake.set()
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                self._read_adapters()
                self._drop([row for row in self._rows if row.cancelled])
                self._admit()
                if self._batch is not None:
                    self._take(self._rows, self._model.decode(self._batch, self._last))
                elif not self._waiting:
                    self._wake.wait()
            except Exception as error:
                log.exception("engine.step_failed", rows=len(self._rows), joining=len(self._joining))
                self._fail(error)

    def _read_adapters(self) -> None:
        while self._tasks:
            folder, future = self._tasks.popleft()
            try:
                future.set_result(self._model.read(folder))
            except Exception as error:  # noqa: BLE001  raised again where the result is awaited
                future.set_exception(error)

    def _admit(self) -> None:
        """Read the prompts of waiting rows, as many as fit, and let those rows join."""
        self._joining = []
        longest = 0
        while self._waiting and len(self._rows) + len(self._joining) < self._max_rows:
            longest = max(longest, len(self._waiting[0].prompt))
            if self._joining and longest * (len(self._joining) + 1) > _PREFILL_TOKENS:
                break
            row = self._waiting.popleft()
            if not row.cancelled:
                self._joining.append(row)
        if not self._joining:
            return
        logits, batch = self._model.prefill(
            [row.prompt for row in self._joining], [row.adapter for row in self._joining]
        )
        if self._batch is None:
            self._batch = batch
        else:
            self._batch.join(batch)
        new = self._joining
        self._rows, self._joining = self._rows + new, []
        self._take(new, logits)

    def _take(self, rows: list[Row], logits: Tensor) -> None:
        """Choose and deliver one token for each of the last `len(rows)` rows; drop those that are finished."""
        finished, chosen = [], []
        for row, scores in zip(rows, logits, strict=True):
            try:
                choice = choose(scores, row.temperature, row.top_p, row.generator)
            except NotFinite as error:
                row.deliver(error)
                finished.append(row)
                chosen.append(0)
                continue
            row.count += 1
            chosen.append(choice.token)
            row.deliver(choice)
            if choice.token in row.ends or row.count == row.max_tokens:
                row.deliver(None)
                finished.append(row)
        self.tokens += len(rows)
        older = self._last[: len(self._rows) - len(rows)]
        self._last = torch.cat([older, torch.tensor(chosen, dtype=torch.long)])
        self._drop(finished)

    def _drop(self, gone: Sequence[Row]) -> None:
        if not gone or self._batch is None:
            return
        kept = [index for index, row in enumerate(self._rows) if row not in gone]
        self._rows = [self._rows[index] for index in kept]
        if kept:
            self._batch.keep(kept)
            self._last = self._last[kept]
        else:
            self._batch = None

    def _fail(self, error: Exception) -> None:
        """Give up every row of the step that went wrong; those that wait are not touched."""
        for row in self._rows + self._joining:
            row.deliver(error)
        self._rows, self._joining, self._batch = [], [], None
