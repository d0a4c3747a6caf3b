"""How far the runs are, for Prometheus.

The label `run` is bounded: a run has it only while it is open.
"""

from prometheus_client import Gauge

from services.trainer.store import Store
from shared.delivery.unit_of_work import Database
from shared.operations.measuring import measuring

EVERY_SECONDS = 5.0
STEP = Gauge("driftwheel_trainer_run_step", "Steps done by an open run.", ["model", "run"])
STEPS = Gauge(
    "driftwheel_trainer_run_steps", "Steps that an open run is to do; 0 before it is known.", ["model", "run"]
)
LOSS = Gauge("driftwheel_trainer_run_loss", "Newest training loss of an open run.", ["model", "run"])


class RunProgress:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def run(self) -> None:
        await measuring("progress", self.measure, (STEP, STEPS, LOSS), EVERY_SECONDS)

    async def measure(self) -> None:
        """A run that ended is gone with its labels."""
        async with self._db.unit_of_work() as work:
            runs = await Store(work.session).working()
        for gauge in (STEP, STEPS, LOSS):
            gauge.clear()
        for run in runs:
            STEP.labels(run.model, run.id).set(run.step)
            STEPS.labels(run.model, run.id).set(run.total_steps)
            if run.loss is not None:
                LOSS.labels(run.model, run.id).set(run.loss)
