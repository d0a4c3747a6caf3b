"""Keeps the process in step with the database: told by NOTIFY when something is committed, and looking anyway."""

import asyncio

import structlog

from services.serving import store
from services.serving.last_known import LastKnown
from services.serving.live import Live
from shared.delivery.postgres import connect
from shared.delivery.unit_of_work import Database

log = structlog.get_logger()


class Refresher:
    """While the database is away the last known state stays in force, that of the process before included."""

    def __init__(self, db: Database, live: Live, last_known: LastKnown, poll_seconds: float) -> None:
        self._db = db
        self._live = live
        self._last_known = last_known
        self._poll_seconds = poll_seconds

    async def run(self) -> None:
        if not self._live.seen and (snapshot := await asyncio.to_thread(self._last_known.load)):
            log.info("snapshot.restored", models=len(snapshot.models))
            self._live.recall(snapshot)
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 (whatever it is, the last known state serves until it is mended)
                log.warning("refresher.paused", error=type(error).__name__)
                await asyncio.sleep(self._poll_seconds)

    async def _listen(self) -> None:
        async with await connect(self._db.url, autocommit=True) as connection:
            await connection.execute(f"LISTEN {store.CHANNEL}")
            while True:
                await self.refresh()
                async for _ in connection.notifies(timeout=self._poll_seconds, stop_after=1):
                    pass

    async def refresh(self) -> None:
        async with self._db.unit_of_work() as work:
            snapshot = await store.snapshot(work)
        self._live.see(snapshot)
        try:
            await asyncio.to_thread(self._last_known.save, snapshot)
        except OSError as error:
            log.error("snapshot.not_kept", error=type(error).__name__)
