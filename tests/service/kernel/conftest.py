"""Databases with the kernel's tables alone."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import create_engine

from shared import db

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def make_kernel_database(postgres: Any) -> Callable[[], str]:
    """A function that makes a fresh database and returns its URL."""

    def make() -> str:
        name = f"kernel_{next(_NUMBERS)}"
        with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
            connection.execute(f"CREATE DATABASE {name}")
        url = urlsplit(postgres.admin_url)._replace(path=f"/{name}").geturl()
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
        with engine.connect() as connection:
            db._upgrade(connection, Path(db.__file__).parent / "migrations", "kernel_version")
            db._procrastinate(connection)
        engine.dispose()
        return url

    return make
