"""Procrastinate's own tables move on with its release, from any release 3 and from a database without a record."""

from typing import Any

import psycopg
import pytest
from procrastinate import App, PsycopgConnector
from procrastinate.schema import SchemaManager

from shared.delivery.queue_schema import migrations, upgrade_queue
from shared.delivery.schema import upgrade

_SHAPE = """
SELECT 'function', proname, prosrc FROM pg_proc WHERE proname LIKE 'procrastinate%'
UNION ALL SELECT 'column', table_name || '.' || column_name, data_type || is_nullable FROM information_schema.columns
    WHERE table_name LIKE 'procrastinate%'
UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE tablename LIKE 'procrastinate%'
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname LIKE 'procrastinate%'
"""


def shape(url: str) -> set[tuple[str, str, str]]:
    """Everything that Procrastinate has there, its code without differences of white space."""
    with psycopg.connect(url) as connection:
        return {(kind, name, " ".join(text.split())) for kind, name, text in connection.execute(_SHAPE)}


def of_release(url: str, version: str) -> None:
    """The tables as they were at a release of Procrastinate, with one job in them."""
    with psycopg.connect(url, autocommit=True) as connection:
        for path in migrations():
            if path.name < f"{version}_99":
                connection.execute(path.read_bytes())
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('default', 'hello', '{}')"
        )


@pytest.mark.parametrize("version", ["03.00.00", "03.01.00", "03.02.00", "03.03.00", "03.04.00"])
async def test_the_tables_of_an_older_release_are_brought_along_and_their_jobs_run(
    postgres: Any, version: str
) -> None:
    url, fresh = postgres.fresh_database(), postgres.fresh_database()
    of_release(url, version)
    for _ in range(2):
        with psycopg.connect(url) as connection:
            upgrade_queue(connection)
    with psycopg.connect(fresh) as connection:
        upgrade_queue(connection)
    assert shape(url) == shape(fresh)

    app, greeted = App(connector=PsycopgConnector(conninfo=url)), []

    @app.task(name="hello")
    async def hello() -> None:
        greeted.append("hello")

    async with app.open_async():
        await app.run_worker_async(wait=False, install_signal_handlers=False)
    assert greeted == ["hello"]


def test_a_database_of_a_service_without_a_record_gets_one(postgres: Any) -> None:
    url = postgres.fresh_database("data")
    with psycopg.connect(url) as connection:
        connection.execute(SchemaManager.get_schema())
    before = shape(url)
    upgrade("data", url)
    with psycopg.connect(url) as connection:
        recorded = [name for (name,) in connection.execute("SELECT name FROM procrastinate_migrations")]
    assert sorted(recorded) == [path.name for path in migrations()]
    assert before <= shape(url)


def test_tables_that_are_too_old_are_refused_with_the_next_step(postgres: Any) -> None:
    url = postgres.fresh_database()
    of_release(url, "02.06.00")
    with (
        psycopg.connect(url) as connection,
        pytest.raises(LookupError, match=r"migrations up to 03\.00\.00"),
    ):
        upgrade_queue(connection)
