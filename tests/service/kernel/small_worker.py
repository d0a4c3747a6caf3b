"""A worker whose job does what it is told: `python -m tests.service.kernel.small_worker`."""

import asyncio
import os
import signal
import tempfile

from shared.delivery.unit_of_work import Database
from shared.jobs.attempts import Attempt
from shared.jobs.child import CONNECTIONS
from shared.jobs.worker import Jobs
from shared.service.settings import WorkerSettings, settings_config
from shared.service.worker import run_worker

JOB = "work"


class Settings(WorkerSettings):
    model_config = settings_config("data")


async def run(attempt: Attempt, how: str = "well", until: int = 1) -> None:
    """`until`: the attempt from which it goes well."""
    tempfile.mkstemp()
    if attempt.number >= until and how != "hungry":
        return
    if how == "hungry":
        filled = bytearray(b"x" * 400_000_000)
        await asyncio.sleep(2)
        assert filled
    elif how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    elif how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        await asyncio.sleep(3_600)
    elif how == "busy":
        await asyncio.to_thread(lambda: [None for _ in iter(int, 1)])
    else:
        await asyncio.sleep(3_600)


def create_worker(settings: Settings) -> Jobs:
    db = Database("data", settings.database_url.get_secret_value(), pool=CONNECTIONS)
    jobs = Jobs("data", db, stalled_after=settings.stalled_after_seconds, concurrency=settings.jobs_at_once)
    jobs.add(JOB, run, seconds=settings.job_seconds, advice="Raise JOB_SECONDS.")
    return jobs


if __name__ == "__main__":
    run_worker(create_worker, Settings)
