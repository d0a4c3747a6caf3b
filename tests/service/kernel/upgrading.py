"""A database as a release before left it, brought to the newest."""

from pathlib import Path

import psycopg
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from shared.delivery import schema

KERNEL = Path(schema.__file__).parent / "migrations"


def upgraded_with(url: str, revision: str, sql: str) -> str:
    """The kernel's tables as of `revision`, filled by `sql`, then upgraded to the newest; returns the URL."""
    config = Config()
    config.set_main_option("script_location", str(KERNEL))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        with EnvironmentContext(
            config, script, fn=lambda now, _context: script._upgrade_revs(revision, now)
        ) as environment:
            environment.configure(connection=connection, version_table="kernel_version")
            with environment.begin_transaction():
                environment.run_migrations()
        connection.commit()
        with psycopg.connect(url, autocommit=True) as raw:
            raw.execute(sql)
        schema._upgrade(connection, KERNEL, "kernel_version")
    engine.dispose()
    return url
