"""Migrations and models say the same, for every service; and running them twice changes nothing."""

import importlib
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from shared.delivery import schema

SERVICES = ("data", "trainer", "evaluator", "registry", "serving", "monitor")
KERNEL = (
    "inbox",
    "outbox",
    "sent",
    "dead_letters",
    "remembered",
    "attempts",
    "kernel_version",
    "alembic_version",
)


@pytest.mark.parametrize("service", SERVICES)
def test_migrations_make_what_the_models_say(postgres: Any, service: str) -> None:
    url = postgres.fresh_database(service)
    schema.upgrade(service, url)
    schema.upgrade(service, url)
    metadata = importlib.import_module(f"services.{service}.domain").Table.metadata
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, _: (
                    kind != "table"
                    or (name not in KERNEL and not str(name).startswith(("procrastinate", "inbox_", "sent_")))
                ),
            },
        )
        differences = [d for d in compare_metadata(context, metadata) if "procrastinate" not in str(d)]
    engine.dispose()
    assert not differences
