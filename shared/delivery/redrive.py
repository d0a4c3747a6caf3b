"""Dead letters that are due again are handed to their handlers here, in the service where they died.

Each by one process at a time: whoever takes one has a minute for it, and the inbox lets one handling through in any case.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiokafka import ConsumerRecord
from psycopg.rows import dict_row

from shared.delivery.failures import classify
from shared.delivery.outbox import unpack_headers
from shared.delivery.unit_of_work import Database

_EVERY_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
_TAKE = """
UPDATE dead_letters SET due_at = now() + interval '1 minute'
WHERE (topic, partition, "offset") = (
    SELECT topic, partition, "offset" FROM dead_letters WHERE state = 'redriven' AND due_at <= now()
    ORDER BY due_at, handled_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING topic, partition, "offset", recorded_at, key, headers, body
"""
_KNOWN = """
DELETE FROM dead_letters WHERE topic = %(topic)s AND partition = %(partition)s AND "offset" = %(offset)s
    AND state = 'redriven'
"""

Handle = Callable[["ConsumerRecord[Any, Any]"], Awaitable[bool]]
"""Handle a record as if Kafka had given it, or bury it again; False while a part is away."""

log = structlog.get_logger()


class Redrive:
    """One at a time, the longest due first."""

    def __init__(self, db: Database, handle: Handle) -> None:
        self._db = db
        self._handle = handle

    async def run(self) -> None:
        """Until cancelled."""
        pause = _EVERY_SECONDS
        while True:
            try:
                if await self.next():
                    pause = _EVERY_SECONDS
                    continue
            except Exception as error:
                if not classify(error).passes:
                    raise
                log.warning("redrive.waiting", error=type(error).__name__)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def next(self) -> bool:
        """Handle one; False if none is due, or a part is away (then it stays due)."""
        async with self._db.unit_of_work() as work, (await work.raw()).cursor(row_factory=dict_row) as cursor:
            row = await (await cursor.execute(_TAKE)).fetchone()
        if row is None:
            return False
        if not await self._handle(_record(row)):
            return False
        # Neither handled nor buried: the inbox knew it, from another place. Nothing is left to do for it.
        async with self._db.unit_of_work() as work, (await work.raw()).cursor() as cursor:
            await cursor.execute(_KNOWN, row)
        return True


def _record(row: dict[str, Any]) -> "ConsumerRecord[Any, Any]":
    body, key = row["body"], row["key"]
    return ConsumerRecord(
        row["topic"],
        row["partition"],
        row["offset"],
        round(row["recorded_at"].timestamp() * 1_000),
        0,
        key,
        body,
        None,
        -1 if key is None else len(key),
        -1 if body is None else len(body),
        tuple(unpack_headers(row["headers"])),
    )
