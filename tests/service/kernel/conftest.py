"""Databases with the kernel's tables alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from shared.delivery import schema
from tests.service.kernel.small_service import SmallService


@pytest.fixture(scope="session")
def make_kernel_database(postgres: Any) -> Callable[[], str]:
    """A function that makes a fresh database and returns its URL."""

    def make() -> str:
        url: str = postgres.fresh_database()
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
        with engine.connect() as connection:
            schema._upgrade(connection, Path(schema.__file__).parent / "migrations", "kernel_version")
            schema._procrastinate(connection)
        engine.dispose()
        return url

    return make


@pytest.fixture
def service(
    kafka: Any,
    make_kernel_database: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> SmallService:
    """A service with a topic and a database of its own; not started."""
    return SmallService(kafka, make_kernel_database(), tmp_path / "jwks.json", monkeypatch)
