"""The job process of the evaluator: `python -m services.evaluator.worker`. Each evaluation in a process of its
own, which alone loads torch."""

from services.evaluator.domain import EVALUATE_JOB
from services.evaluator.job import Evaluator
from services.evaluator.settings import Settings
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
    db = Database("evaluator", settings.database_url.get_secret_value(), pool=CONNECTIONS)
    objects = S3Objects.of(settings)
    evaluator = Evaluator(objects, settings, SystemClock())
    jobs = Jobs(
        "evaluator", db, stalled_after=settings.stalled_after_seconds, concurrency=settings.jobs_at_once
    )
    jobs.add(
        EVALUATE_JOB,
        evaluator.run,
        evaluator.failed,
        seconds=settings.job_seconds,
        advice="Measure fewer rows, give the worker more memory, or raise DRIFTWHEEL_EVALUATOR__JOB_SECONDS.",
    )
    return jobs


if __name__ == "__main__":
    run_worker(create_worker, Settings)
