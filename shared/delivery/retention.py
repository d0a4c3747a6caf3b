"""How long messages are remembered: daily partitions are made ahead, and dropped when nobody can ask for them again."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import structlog

from shared.delivery.failures import classify
from shared.delivery.inbox import HORIZON
from shared.delivery.settings import DeliverySettings
from shared.delivery.unit_of_work import Database, UnitOfWork

DAYS_AHEAD = 7
_EVERY_SECONDS = 3_600.0
_AGAIN_SECONDS = 60.0
_KEEP = "SELECT keep_partitions(%s, %s, %s, %s)"
# Making and dropping take short locks of whole tables: better later than in the way.
_PATIENCE = "SET LOCAL lock_timeout = '2s'"

log = structlog.get_logger()


class Retention:
    """Any number of processes may run it; a lock lets one through."""

    def __init__(self, db: Database, settings: DeliverySettings) -> None:
        self._db = db
        self._settings = settings

    async def run(self) -> None:
        """Once an hour until cancelled."""
        while True:
            seconds = _EVERY_SECONDS
            try:
                if dropped := await self.keep(datetime.now(UTC).date()):
                    log.info("retention.dropped", partitions=dropped)
            except Exception as error:
                if not classify(error).passes:
                    raise
                log.warning("retention.waiting", error=type(error).__name__)
                seconds = _AGAIN_SECONDS
            await asyncio.sleep(seconds)

    async def keep(self, today: date) -> int:
        """Make the partitions of the coming week, drop the old ones; returns how many were dropped."""
        async with self._db.unit_of_work() as work, (await work.raw()).cursor() as cursor:
            await cursor.execute(_PATIENCE)
            given = (today, DAYS_AHEAD, self._settings.keep_days, self._settings.keep_dead_days)
            row = await (await cursor.execute(_KEEP, given)).fetchone()
        return int(row[0]) if row else 0


async def remembered_since(work: UnitOfWork) -> datetime | None:
    """What Kafka got before this may be forgotten: handled again, it would have its effects again. None: nothing is."""
    row = (await work.execute("SELECT since FROM remembered")).first()
    if row is None:
        return None
    since: date = row[0]
    return datetime(since.year, since.month, since.day, tzinfo=UTC) + HORIZON + timedelta(days=1)
