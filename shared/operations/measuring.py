"""Numbers for Prometheus that stand in the database: what a worker does has no port of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

import psycopg
import structlog
from prometheus_client import Gauge
from sqlalchemy.exc import SQLAlchemyError

_PATIENCE_SECONDS = 10.0

log = structlog.get_logger()


async def measuring(
    what: str, measure: Callable[[], Awaitable[None]], gauges: Collection[Gauge], seconds: float
) -> None:
    """Measure every few seconds until cancelled.

    What is not known is not shown: an old number would look like a calm one.

    Args:
        what: is measured, for the log.
        measure: looks once, and sets the gauges.
    """
    while True:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await measure()
        except (psycopg.Error, SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("metrics.unknown", what=what, error=type(error).__name__)
            for gauge in gauges:
                gauge.clear()
        await asyncio.sleep(seconds)
