"""The tables of Procrastinate: made in a fresh database, and brought along when its release moves on.

Its package ships migrations but keeps no record of them, so we do: table `procrastinate_migrations`.
"""

from collections.abc import Sequence
from pathlib import Path

import psycopg
from procrastinate.schema import SchemaManager

_RECORD = """
CREATE TABLE IF NOT EXISTS procrastinate_migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())
"""
_FUNCTION = (
    "SELECT EXISTS (SELECT FROM pg_proc WHERE proname = '{}' AND pronamespace = current_schema::regnamespace)"
)
_MARKS = (
    ("03.04.00", _FUNCTION.format("procrastinate_retry_job_v2")),
    (
        "03.03.00",
        "SELECT coalesce((SELECT prosrc LIKE '%other_jobs.priority > jobs.priority%' FROM pg_proc"
        " WHERE proname = 'procrastinate_fetch_job_v2' AND pronamespace = current_schema::regnamespace), false)",
    ),
    ("03.02.00", _FUNCTION.format("procrastinate_defer_jobs_v1")),
    ("03.01.00", "SELECT to_regclass('procrastinate_workers') IS NOT NULL"),
    ("03.00.00", _FUNCTION.format("procrastinate_notify_queue_job_inserted_v1")),
)
"""What each release of its schema was the first to have, newest first: how to tell the age of one without a record."""


def upgrade_queue(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Bring Procrastinate's tables to the installed release, each step in a transaction with its record.

    Raises:
        LookupError: the tables are older than Procrastinate 3.
    """
    shipped = migrations()
    with connection.transaction():
        fresh = _one(connection, "SELECT to_regclass('procrastinate_jobs') IS NULL")
        if fresh:
            connection.execute(SchemaManager.get_schema())
        known = not fresh and _one(connection, "SELECT to_regclass('procrastinate_migrations') IS NOT NULL")
        connection.execute(_RECORD)
        if not known:
            newest = shipped[-1].name if fresh else f"{_age(connection)}_99"
            _record(connection, [path.name for path in shipped if path.name <= newest])
    applied = {str(name) for (name,) in connection.execute("SELECT name FROM procrastinate_migrations")}
    for path in shipped:
        if path.name not in applied:
            with connection.transaction():
                connection.execute(path.read_bytes())
                _record(connection, [path.name])


def migrations() -> list[Path]:
    """What the installed release ships, in order."""
    return sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"), key=lambda path: path.name)


def _age(connection: "psycopg.Connection[tuple[object, ...]]") -> str:
    for version, mark in _MARKS:
        if _one(connection, mark):
            return version
    raise LookupError(
        "the tables of Procrastinate are older than its release 3: apply its migrations up to 03.00.00 first, see "
        "https://procrastinate.readthedocs.io/en/stable/howto/production/migrations.html"
    )


def _one(connection: "psycopg.Connection[tuple[object, ...]]", query: str) -> bool:
    row = connection.execute(query.encode()).fetchone()
    return bool(row and row[0])


def _record(connection: "psycopg.Connection[tuple[object, ...]]", names: Sequence[str]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO procrastinate_migrations (name) VALUES (%s)", [(name,) for name in names]
        )
