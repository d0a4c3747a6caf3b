"""A worker whose first attempt kills itself with -9 at the nth write of a checkpoint file: `python -m … <file> <nth>`."""

import os
import signal
import sys

from services.trainer.domain import CHECKPOINTS, TRAIN_JOB
from services.trainer.job import Trainer
from services.trainer.settings import Settings
from shared.artifacts.objects import S3Objects
from shared.delivery.unit_of_work import Database
from shared.jobs.worker import Jobs
from shared.service.clock import SystemClock
from shared.service.worker import run_worker


class Mortal(S3Objects):
    def __init__(self, settings: Settings, file: str, nth: int) -> None:
        secret = settings.s3_secret_key.get_secret_value()
        super().__init__(settings.s3_endpoint, settings.s3_access_key, secret)
        first = "--attempt" in sys.argv and sys.argv[sys.argv.index("--attempt") + 2] == "1"
        self._file, self._left = file, nth if first else -1

    async def put(self, bucket: str, key: str, data: bytes) -> None:
        self._left -= bucket == CHECKPOINTS and key.endswith(self._file)
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        await super().put(bucket, key, data)


def create_worker(settings: Settings) -> Jobs:
    db = Database("trainer", settings.database_url.get_secret_value())
    trainer = Trainer(Mortal(settings, sys.argv[1], int(sys.argv[2])), settings, SystemClock())
    jobs = Jobs("trainer", db, stalled_after=settings.stalled_after_seconds)
    jobs.add(TRAIN_JOB, trainer.run, trainer.failed)
    return jobs


if __name__ == "__main__":
    run_worker(create_worker, Settings)
