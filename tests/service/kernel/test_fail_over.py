"""A database that goes away without a word: connections hang up in time, and find the server that leads now."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from shared.delivery.postgres import connect, parameters, patience
from shared.delivery.unit_of_work import Database
from tests.conftest import PostgresServer
from tests.service.kernel.tcp_proxy import tcp_proxy

BRIEF = "connect_timeout=2&options=-c%20statement_timeout%3D1s"
SLACK_SECONDS = 30.0
"""Patience is 1 + 5 seconds here; the rest is a machine that is busy. Without time-outs these tests wait for ever."""


def via(url: str, *ports: int, more: str = "") -> str:
    address, _, database = url.rpartition("/")
    user, _, _ = address.rpartition("@")
    return f"{user}@{','.join(f'127.0.0.1:{port}' for port in ports)}/{database}?{BRIEF}{more}"


def port_of(url: str) -> int:
    return int(url.rpartition("/")[0].rpartition(":")[2])


async def ends(work: Awaitable[Any]) -> float:
    """Seconds until it raised; it must not take for ever."""
    started = time.monotonic()
    with pytest.raises((psycopg.OperationalError, OperationalError)):
        async with asyncio.timeout(SLACK_SECONDS):
            await work
    return time.monotonic() - started


async def test_a_statement_on_a_half_open_connection_ends_in_time(postgres: PostgresServer) -> None:
    url = postgres.fresh_database()
    async with tcp_proxy(port_of(url)) as proxy:
        async with await connect(via(url, proxy.port), autocommit=True) as connection:
            await connection.execute("SELECT 1")
            proxy.passing.clear()
            assert await ends(connection.execute("SELECT 1")) >= 1
            assert connection.closed
        proxy.passing.set()


async def test_a_listener_and_a_cancelled_statement_end_too(postgres: PostgresServer) -> None:
    url = postgres.fresh_database()
    async with tcp_proxy(port_of(url)) as proxy:
        listener = await connect(via(url, proxy.port), autocommit=True)
        await listener.execute("LISTEN somewhere")
        cancelled = await connect(via(url, proxy.port), autocommit=True)
        proxy.passing.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SLACK_SECONDS):
                await asyncio.wait_for(cancelled.execute("SELECT pg_sleep(100)"), 0.5)
        await ends(listener.execute("SELECT 1"))
        proxy.passing.set()


async def test_a_new_connection_to_a_silent_server_ends_in_time(postgres: PostgresServer) -> None:
    url = postgres.fresh_database()
    async with tcp_proxy(port_of(url)) as proxy:
        proxy.passing.clear()
        await ends(connect(via(url, proxy.port)))
        proxy.passing.set()


async def test_a_unit_of_work_finds_the_next_server(postgres: PostgresServer) -> None:
    """Of two addresses the first falls silent: pooled connections are given up, and new ones lead to the second."""
    url = postgres.fresh_database()
    async with tcp_proxy(port_of(url)) as proxy:
        db = Database("data", via(url, proxy.port, port_of(url), more="&target_session_attrs=read-write"))
        async with db.unit_of_work() as work:
            await work.execute("CREATE TABLE here AS SELECT 1 AS one")
        assert proxy.accepted == 1
        proxy.passing.clear()
        started = time.monotonic()
        async with asyncio.timeout(2 * SLACK_SECONDS):
            while True:
                try:
                    async with db.unit_of_work() as work:
                        assert (await work.execute("SELECT one FROM here")).scalar_one() == 1
                    break
                except OperationalError:
                    continue
        assert time.monotonic() - started < 2 * SLACK_SECONDS
        await db.close()
        proxy.passing.set()


async def test_only_a_server_that_may_write_is_taken(postgres: PostgresServer) -> None:
    url = postgres.fresh_database()
    with psycopg.connect(postgres.admin_url, autocommit=True) as admin:
        name = url.rpartition("/")[2]
        admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with pytest.raises(psycopg.OperationalError, match="read-only"):
        await connect(via(url, port_of(url), more="&target_session_attrs=read-write"))


def test_what_the_url_says_holds_and_the_rest_has_time_outs() -> None:
    told = parameters("postgresql://u:p@one:5432,two:5433/d?connect_timeout=2&options=-c%20lock_timeout%3D9s")
    assert (told["host"], told["port"], told["dbname"]) == ("one,two", "5432,5433", "d")
    assert told["connect_timeout"] == "2"
    assert told["tcp_user_timeout"] == "15000"
    assert "lock_timeout=9s" in told["options"]
    assert told["options"].count("lock_timeout") == 1
    assert "statement_timeout=60s" in told["options"]
    assert patience(told) == 65
    assert patience(parameters("postgresql://h/d", statement_timeout="0")) is None
    assert patience(parameters("postgresql://h/d?options=-c%20statement_timeout%3D1500")) == pytest.approx(
        6.5
    )
