"""The schema of a service's database: the kernel's tables, Procrastinate's, and the service's own."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection

from shared.contracts.topology import SERVICES
from shared.delivery.postgres import parameters
from shared.delivery.queue_schema import upgrade_queue


def upgrade(service: str, url: str) -> None:
    """Bring a service's database to the newest schema: the kernel's tables, Procrastinate's, then its own.

    Safe to run from several places at once: an advisory lock lets one through.
    """
    root = Path(__file__).parent
    spec = importlib.util.find_spec(f"services.{service}")
    if spec is None or spec.origin is None:
        raise LookupError(f"there is no service {service!r}; there are {', '.join(SERVICES)}")
    engine = create_engine(
        "postgresql+psycopg://", connect_args=parameters(url, statement_timeout="0", lock_timeout="0")
    )
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
    driver = connection.connection.driver_connection
    if driver is None:
        raise RuntimeError("the connection is closed")
    upgrade_queue(driver)
    connection.commit()


def main(argv: list[str]) -> int:
    """`python -m shared.delivery.schema upgrade <service> …`: reads DRIFTWHEEL_<SERVICE>__DATABASE_URL of each."""
    import os

    if len(argv) < 2 or argv[0] != "upgrade":
        sys.stderr.write("usage: python -m shared.delivery.schema upgrade <service> …\n")
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
