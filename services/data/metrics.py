"""How many builds have ended and why rows were left out, for Prometheus.

Every replica reports the same rows: take the largest, never the sum.
"""

from prometheus_client import Gauge

from services.data.store import Store
from shared.delivery.unit_of_work import Database
from shared.operations.measuring import measuring

EVERY_SECONDS = 30.0
BUILDS = Gauge("driftwheel_data_builds", "Builds that have ended, by what came of them.", ["why", "state"])
DROPPED = Gauge("driftwheel_data_rows_dropped", "Rows left out of datasets, by reason.", ["reason"])


class BuildCounts:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def run(self) -> None:
        await measuring("builds", self.measure, (BUILDS, DROPPED), EVERY_SECONDS)

    async def measure(self) -> None:
        async with self._db.unit_of_work() as work:
            ended, dropped = await Store(work.session).ended_builds()
        for (why, state), number in ended.items():
            BUILDS.labels(why, state).set(number)
        for reason, number in dropped.items():
            DROPPED.labels(reason).set(number)
