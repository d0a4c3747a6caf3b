"""How many builds have ended and why rows were left out, for Prometheus: read from the database, since the process that
builds has no port.

Every replica reports the same rows: take the largest, never the sum.
"""

import asyncio

import structlog
from prometheus_client import Gauge
from psycopg import Error
from sqlalchemy.exc import SQLAlchemyError

from services.data.store import Store
from shared.delivery.unit_of_work import Database

EVERY_SECONDS = 30.0
BUILDS = Gauge("driftwheel_data_builds", "Builds that have ended, by what came of them.", ["why", "state"])
DROPPED = Gauge("driftwheel_data_rows_dropped", "Rows left out of datasets, by reason.", ["reason"])

log = structlog.get_logger()


class BuildCounts:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                await self.read()
            except (Error, SQLAlchemyError, OSError) as error:
                log.warning("builds.unknown", error=type(error).__name__)
            await asyncio.sleep(EVERY_SECONDS)

    async def read(self) -> None:
        """Look once, and show what was found."""
        async with self._db.unit_of_work() as work:
            ended, dropped = await Store(work.session).ended_builds()
        for (why, state), number in ended.items():
            BUILDS.labels(why, state).set(number)
        for reason, number in dropped.items():
            DROPPED.labels(reason).set(number)
