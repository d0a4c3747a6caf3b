"""The job process of the data service: `python -m services.data.worker`. Each build in a process of its own."""

from services.data.builder import Builder
from services.data.service import BUILD_JOB
from services.data.settings import Settings
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
    db = Database("data", settings.database_url.get_secret_value(), pool=CONNECTIONS)
    builder = Builder(S3Objects.of(settings), settings, SystemClock())
    jobs = Jobs("data", db, stalled_after=settings.stalled_after_seconds, concurrency=settings.jobs_at_once)
    jobs.add(
        BUILD_JOB,
        builder.run,
        builder.failed,
        seconds=settings.job_seconds,
        advice="Upload less at a time, give the worker more memory, or raise DRIFTWHEEL_DATA__JOB_SECONDS.",
    )
    return jobs


if __name__ == "__main__":
    run_worker(create_worker, Settings)
