"""How a worker lives. Nothing of HTTP and Kafka is loaded here: each child of a worker would pay for it again."""

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TypeVar

import structlog

from shared.jobs import child
from shared.jobs.worker import Jobs, Runner
from shared.service.settings import WorkerSettings
from shared.telemetry.logs import configure
from shared.telemetry.spans import flush

log = structlog.get_logger()
S = TypeVar("S", bound=WorkerSettings)


def run_worker(create_worker: Callable[[S], Jobs], settings_type: type[S]) -> None:
    """Run jobs until SIGTERM, each attempt in a child, which runs this again with `--attempt KEY NUMBER CHANNEL`.

    Unfinished ones go back to the queue and resume from their checkpoint.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--attempt", nargs=3)
    attempt = parser.parse_known_args()[0].attempt
    settings = settings_type()
    configure(f"{settings.service}-worker", settings.log_level, settings.otlp_endpoint)
    jobs = create_worker(settings)
    if attempt:
        key, number, channel = attempt
        child.work(jobs, key, int(number), int(channel))
    else:
        again = [sys.executable, *sys.orig_argv[1:]]
        asyncio.run(_worker(jobs, child.InChild(again, settings.scratch)))
    flush()
    os._exit(0)


async def _worker(jobs: Jobs, runner: Runner) -> None:
    task = asyncio.ensure_future(jobs.run(runner))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    log.info("worker.started", host=socket.gethostname())
    await asyncio.wait({task}, timeout=None)
    if not task.cancelled() and (error := task.exception()):
        raise error
