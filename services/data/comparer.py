"""Compares two datasets when somebody asks, once: the answer is kept, since digests name what never changes."""

import asyncio
import tempfile
from pathlib import Path

import structlog

from services.data.compare import compare
from services.data.domain import DATASETS, Build, Comparison
from services.data.store import Store
from shared.artifacts.objects import ObjectStore, fetch
from shared.contracts.errors import Conflict
from shared.contracts.text import Json
from shared.delivery.unit_of_work import Database
from shared.service.clock import Clock

log = structlog.get_logger()


class Comparer:
    """One comparison at a time; whoever asks for one that goes on already waits for the same.

    Args:
        scratch: folder for the two datasets while they are compared; the system's own if None.
        patience: seconds that a caller waits; what takes longer goes on and is there for the next one.
    """

    def __init__(
        self, db: Database, objects: ObjectStore, clock: Clock, scratch: Path | None, patience: float = 2.5
    ) -> None:
        self._db, self._objects, self._clock = db, objects, clock
        self._scratch, self._patience = scratch, patience
        self._running: dict[tuple[str, str], asyncio.Task[Json]] = {}
        self._turn = asyncio.Lock()

    async def compare(self, build: Build, against: Build) -> Json | None:
        """See `services.data.compare`; None while it is still being found out.

        Raises:
            Conflict: one of them is no dataset (yet).
            NotFound, Invalid: a dataset is gone from the store, or altered.
        """
        if not build.digest or not against.digest:
            raise Conflict("Only finished datasets can be compared.", "List them: driftwheel datasets list")
        key = (build.digest, against.digest)
        async with self._db.unit_of_work() as work:
            if known := await Store(work.session).comparison(*key):
                return known.result
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._find_out(*key))
            task.add_done_callback(lambda done: self._ended(key, done))
        done, _ = await asyncio.wait({task}, timeout=self._patience)
        return task.result() if done else None

    async def _find_out(self, digest: str, against: str) -> Json:
        async with self._turn:
            with tempfile.TemporaryDirectory(prefix="driftwheel-compare-", dir=self._scratch) as name:
                folder = Path(name)
                await fetch(self._objects, DATASETS, digest, folder / "new")
                await fetch(self._objects, DATASETS, against, folder / "old")
                result = await asyncio.to_thread(compare, folder / "new", folder / "old", folder / "buckets")
        async with self._db.unit_of_work() as work:
            row = Comparison(digest=digest, against=against, result=result, created_at=self._clock.now())
            await Store(work.session).add_once(row)
        return result

    def _ended(self, key: tuple[str, str], task: asyncio.Task[Json]) -> None:
        del self._running[key]
        if not task.cancelled() and (error := task.exception()):
            log.warning("comparison.failed", digest=key[0], against=key[1], error=type(error).__name__)
