"""How far the runs are, for Prometheus: read from the database, since the worker that trains has no port.

The label `run` is bounded: a run has it only while it is open.
"""

import asyncio

import structlog
from prometheus_client import Gauge
from psycopg import Error
from sqlalchemy.exc import SQLAlchemyError

from services.trainer.store import Store
from shared.delivery.unit_of_work import Database

EVERY_SECONDS = 5.0
STEP = Gauge("driftwheel_trainer_run_step", "Steps done by an open run.", ["model", "run"])
STEPS = Gauge(
    "driftwheel_trainer_run_steps", "Steps that an open run is to do; 0 before it is known.", ["model", "run"]
)
LOSS = Gauge("driftwheel_trainer_run_loss", "Newest training loss of an open run.", ["model", "run"])

log = structlog.get_logger()


class RunProgress:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                await self.read()
            except (Error, SQLAlchemyError, OSError) as error:
                log.warning("progress.unknown", error=type(error).__name__)
            await asyncio.sleep(EVERY_SECONDS)

    async def read(self) -> None:
        """Look once, and show what was found: a run that ended is gone with its labels."""
        async with self._db.unit_of_work() as work:
            runs = await Store(work.session).working()
        for gauge in (STEP, STEPS, LOSS):
            gauge.clear()
        for run in runs:
            STEP.labels(run.model, run.id).set(run.step)
            STEPS.labels(run.model, run.id).set(run.total_steps)
            if run.loss is not None:
                LOSS.labels(run.model, run.id).set(run.loss)
