"""The job process of the trainer: `python -m services.trainer.worker`. Each run in a process of its own, which alone loads torch."""

from services.trainer.domain import TRAIN_JOB
from services.trainer.job import Trainer
from services.trainer.settings import Settings
from shared.artifacts.base_model import base_digest
from shared.artifacts.objects import S3Objects
from shared.delivery.unit_of_work import Database
from shared.jobs.child import CONNECTIONS
from shared.jobs.worker import Jobs
from shared.service.clock import SystemClock
from shared.service.worker import run_worker


def create_worker(settings: Settings) -> Jobs:
    """Raises NotFound or Invalid if the base model is missing or altered."""
    base_digest(settings.base_model)
    db = Database("trainer", settings.database_url.get_secret_value(), pool=CONNECTIONS)
    objects = S3Objects.of(settings)
    trainer = Trainer(objects, settings, SystemClock())
    jobs = Jobs(
        "trainer", db, stalled_after=settings.stalled_after_seconds, concurrency=settings.jobs_at_once
    )
    jobs.add(
        TRAIN_JOB,
        trainer.run,
        trainer.failed,
        cancelled=trainer.cancelled,
        seconds=settings.job_seconds,
        advice="Train less at a time, give the worker more memory, or raise DRIFTWHEEL_TRAINER__JOB_SECONDS.",
    )
    return jobs


if __name__ == "__main__":
    run_worker(create_worker, Settings)
