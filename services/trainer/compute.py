"""Where torch runs: one thread, so that the event loop keeps sending heartbeats."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Compute:
    """One thread for all of torch, so that the event loop keeps sending heartbeats; and the seconds it worked."""

    def __init__(self, seconds: float) -> None:
        self._thread = ThreadPoolExecutor(1, "torch")
        self.seconds = seconds

    async def __call__(self, work: Callable[[], T]) -> T:
        started = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self.seconds += time.monotonic() - started

    def close(self) -> None:
        self._thread.shutdown(wait=False)
