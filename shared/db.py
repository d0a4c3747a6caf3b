"""The unit of work: one transaction that holds effects, events and jobs together. And migrations."""

import importlib.util
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import structlog
from psycopg.types.json import Jsonb
from sqlalchemy import CursorResult, create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from shared.envelope import Envelope, new_id
from shared.events import Event
from shared.outbox import INSERT, Outgoing, outgoing, pack_headers
from shared.spans import announcing

log = structlog.get_logger()

# A process that is frozen or cut off in a transaction holds its locks for no longer than this: its successor needs them.
GIVEN_UP = "-c idle_in_transaction_session_timeout=30s"


class UnitOfWork:
    """What a use case may touch: rows through `session`, events through `emit`, jobs through `defer`."""

    def __init__(self, service: str, session: AsyncSession, cause: Envelope | None) -> None:
        self.session = session
        self.cause = cause
        self._service = service
        self._outgoing: list[Outgoing] = []

    def emit(self, event: Event, *, topic: str | None = None) -> str:
        """Announce an event when this unit of work commits; returns its id.

        Args:
            topic: only for a reply topic that a requester named; the type stays the event's own.
        """
        event_id = new_id()
        cause = self.cause
        self._outgoing.append(
            outgoing(
                event,
                Envelope(
                    id=event_id,
                    source=f"/{self._service}",
                    type=event.ce_type(),
                    time=datetime.now(UTC),
                    correlationid=cause.correlationid if cause else event_id,
                    causationid=cause.id if cause else None,
                    subject=event.partition_key(),
                    traceparent=announcing(topic or event.topic, cause),
                ),
                topic,
            )
        )
        return event_id

    def send(self, message: Outgoing) -> None:
        """Pass a message on as it is: a dead letter or its redrive."""
        self._outgoing.append(message)

    async def defer(self, job: str, *, lock: str | None = None, priority: int = 0, **args: Any) -> int:
        """Start a job when this unit of work commits.

        Args:
            lock: the fencing key: one of a kind at a time.
            priority: of waiting jobs, the highest is taken first.
        """
        from shared.jobs import defer

        return await defer(self, job, lock, args, priority)

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
                "refs": list(m.refs),
            }
            for m in self._outgoing
        ]
        self._outgoing = []
        async with (await self.raw()).cursor() as cursor:
            await cursor.executemany(INSERT, rows)
            await cursor.execute("SELECT pg_notify('outbox', '')")


class Database:
    """One service's database. `url` is `postgresql://…`; SQLAlchemy and psycopg share it."""

    def __init__(self, service: str, url: str) -> None:
        self.service = service
        self.url = url
        self._engine: AsyncEngine = create_async_engine(
            url.replace("postgresql://", "postgresql+psycopg://", 1),
            pool_size=5,
            max_overflow=10,
            pool_pre_ping=True,
            connect_args={"options": GIVEN_UP},
        )

    @asynccontextmanager
    async def unit_of_work(self, cause: Envelope | None = None) -> AsyncIterator[UnitOfWork]:
        """Commit at the end, or roll everything back, events and jobs included."""
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            work = UnitOfWork(self.service, session, cause)
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
        await self._engine.dispose()


def upgrade(service: str, url: str) -> None:
    """Bring a service's database to the newest schema: the kernel's tables, Procrastinate's, then its own.

    Safe to run from several places at once: an advisory lock lets one through.
    """
    root = Path(__file__).parent
    spec = importlib.util.find_spec(f"services.{service}")
    if spec is None or spec.origin is None:
        raise LookupError(f"there is no service {service!r}; see the folders in services/")
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(7201)"))
            connection.commit()
            _upgrade(connection, root / "migrations", "kernel_version")
            _procrastinate(connection)
            _upgrade(connection, Path(spec.origin).parent / "migrations", "alembic_version")
            connection.execute(text("SELECT pg_advisory_unlock(7201)"))
    finally:
        engine.dispose()


def _upgrade(connection: Connection, location: Path, version_table: str) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)

    def to_head(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(config, script, fn=to_head) as environment:
        environment.configure(connection=connection, version_table=version_table)
        with environment.begin_transaction():
            environment.run_migrations()
    connection.commit()


def _procrastinate(connection: Connection) -> None:
    from procrastinate.schema import SchemaManager

    if connection.execute(text("SELECT to_regclass('procrastinate_jobs')")).scalar() is None:
        driver = connection.connection.driver_connection
        if driver is None:
            raise RuntimeError("the connection is closed")
        driver.execute(SchemaManager.get_schema())
    connection.commit()


def main(argv: list[str]) -> int:
    """`python -m shared.db upgrade <service> …`: reads DRIFTWHEEL_<SERVICE>__DATABASE_URL of each."""
    import os

    if len(argv) < 2 or argv[0] != "upgrade":
        sys.stderr.write("usage: python -m shared.db upgrade <service> …\n")
        return 2
    urls = {service: os.environ.get(f"DRIFTWHEEL_{service.upper()}__DATABASE_URL") for service in argv[1:]}
    if missing := [service for service, url in urls.items() if not url]:
        names = ", ".join(f"DRIFTWHEEL_{service.upper()}__DATABASE_URL" for service in missing)
        sys.stderr.write(f"{names} is not set: give the URL of each service's database\n")
        return 2
    for service, url in urls.items():
        upgrade(service, str(url))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
