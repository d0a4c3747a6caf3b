"""The unit of work: one transaction that holds effects, events and jobs together."""

import functools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import CursorResult, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from shared.artifacts.signing import NOBODY, Trust
from shared.contracts.envelope import Envelope, new_id
from shared.contracts.events import Event
from shared.delivery.outbox import INSERT, WAKE, Outgoing, outgoing, pack_headers
from shared.delivery.postgres import connect
from shared.telemetry.spans import announcing

POOL = 5
"""Most connections of a process for its routes, loops and jobs; opened when they are needed."""


class UnitOfWork:
    """What a use case may touch: rows through `session`, events through `emit`, jobs through `defer`.

    Attributes:
        cause: what this work is done for, and its events refer to. Of a batch the last one: with it the batch was whole.
        causes: of a batch, the envelope of each event, in order.
        trust: whom the service believes, and as whom it speaks.
    """

    def __init__(
        self, service: str, session: AsyncSession, cause: Envelope | None, trust: Trust = NOBODY
    ) -> None:
        self.session = session
        self.trust = trust
        self.cause = cause
        self.causes: Sequence[Envelope] = [cause] if cause else []
        self.service = service
        self._outgoing: list[Outgoing] = []

    def emit(self, event: Event, *, topic: str | None = None) -> str:
        """Announce an event when this unit of work commits; returns its id.

        Args:
            topic: only for a reply topic that a requester named; the type stays the event's own.
        """
        event_id = event.own_id() or new_id()
        cause = self.cause
        begins = cause is None or (cause.type == "request" and cause.correlationid == cause.id)
        story = event.story() if begins else None
        self._outgoing.append(
            outgoing(
                event,
                Envelope(
                    id=event_id,
                    source=f"/{self.service}",
                    type=event.ce_type(),
                    time=datetime.now(UTC),
                    correlationid=story or (cause.correlationid if cause else event_id),
                    causationid=cause.id if cause and not story else None,
                    subject=event.partition_key(),
                    traceparent=announcing(topic or event.topic, cause),
                ),
                topic,
                self.trust.signer,
            )
        )
        return event_id

    def send(self, message: Outgoing) -> None:
        """Pass a message on as it is: a dead letter or its redrive."""
        self._outgoing.append(message)

    async def execute(
        self, statement: str, parameters: Mapping[str, Any] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run one SQL statement with `:name` parameters, for what the mapped classes do not say well."""
        return await (await self.session.connection()).execute(text(statement), parameters)

    async def raw(self) -> psycopg.AsyncConnection[Any]:
        """The psycopg connection underneath, for what SQLAlchemy does not speak."""
        connection = await self.session.connection()
        fairy = await connection.get_raw_connection()
        driver = fairy.driver_connection
        if not isinstance(driver, psycopg.AsyncConnection):
            raise TypeError("the engine must use psycopg 3")
        return driver

    async def flush(self) -> None:
        """Write the events of this unit of work. Called once, before the commit."""
        await self.session.flush()
        if not self._outgoing:
            return
        rows = [
            {
                "event_id": m.event_id,
                "topic": m.topic,
                "key": m.key,
                "headers": Jsonb(pack_headers(m.headers)),
                "body": m.body,
                "correlationid": m.correlationid,
                "causationid": m.causationid,
                "refs": m.refs,
                "shown": Jsonb(m.shown) if m.shown is not None else None,
            }
            for m in self._outgoing
        ]
        self._outgoing = []
        async with (await self.raw()).cursor() as cursor:
            await cursor.executemany(INSERT, rows)
            await cursor.execute(WAKE)


class Database:
    """One service's database. `url` is `postgresql://…`; SQLAlchemy and psycopg share it."""

    def __init__(
        self, service: str, url: str, trust: Trust = NOBODY, *, pool: int = POOL, ping: bool = True
    ) -> None:
        self.service = service
        self.trust = trust
        self.url = url
        self._apart: list[Database] = []
        self._engine: AsyncEngine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=functools.partial(connect, url),
            pool_size=pool,
            max_overflow=0,
            pool_pre_ping=ping,
        )

    def apart(self, connections: int) -> "Database":
        """The same database through connections that nobody else can use up. They are not asked whether they live
        before each use: who uses them tries again anyway."""
        self._apart.append(Database(self.service, self.url, self.trust, pool=connections, ping=False))
        return self._apart[-1]

    @asynccontextmanager
    async def unit_of_work(self, cause: Envelope | None = None) -> AsyncIterator[UnitOfWork]:
        """Commit at the end, or roll everything back, events and jobs included."""
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            work = UnitOfWork(self.service, session, cause, self.trust)
            try:
                yield work
                await work.flush()
                await session.commit()
            except BaseException:
                await session.rollback()
                raise

    async def ping(self) -> None:
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        for database in self._apart:
            await database.close()
        await self._engine.dispose()
