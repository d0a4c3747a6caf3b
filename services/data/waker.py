"""Looks from time to time whether a retraining that waits for labels has enough: no event ever does, however many come."""

import asyncio
import time

from services.data.service import DataService
from services.data.store import Store
from shared.contracts.envelope import Envelope
from shared.delivery.unit_of_work import Database

SHARE = 0.05
"""Of the time, how much may go into looking: a look takes longer the more labels there are."""


class Waker:
    def __init__(self, db: Database, service: DataService, seconds: float) -> None:
        self._db = db
        self._service = service
        self._seconds = seconds

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            began = time.monotonic()
            await self.look()
            await asyncio.sleep(max(self._seconds, (time.monotonic() - began) / SHARE))

    async def look(self) -> None:
        """Once, at every model that has a build waiting; what it starts belongs to that build's story."""
        async with self._db.unit_of_work() as work:
            waiting = await Store(work.session).models_waiting()
        for model, cause in waiting:
            async with self._db.unit_of_work(Envelope.from_json(cause) if cause else None) as work:
                await self._service.wake(work, model)
