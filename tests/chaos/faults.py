"""Faults, drawn one at a time; each heals by itself and says what it did."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psycopg

from infra.kafka import requests
from infra.kafka.admin import administrator
from infra.local.credentials import SERVICES
from infra.local.stack import Stack
from tests.chaos import clocks

Heal = Callable[[], Awaitable[None]]
SOFT = ("kafka", "postgres", "s3", "caddy", "engine")


@dataclass(frozen=True)
class Fault:
    """`strike` returns when the fault is over; what it broke may still be coming back."""

    name: str
    strike: Callable[[Stack, random.Random], Awaitable[None]]


def _ours(stack: Stack) -> list[str]:
    """Services and workers, each replica."""
    return [name for name in stack.snapshot()["parts"] if name.partition("-")[0] in SERVICES]


async def _running(stack: Stack, part: str, act: Callable[[int], None]) -> None:
    """Act on the part's process, if it has one now: it may still be coming back from the fault before."""
    try:
        act(stack.pid(part))
    except (RuntimeError, ProcessLookupError):
        return


def _signal(number: signal.Signals) -> Callable[[int], None]:
    return lambda pid: os.killpg(pid, number)


def kill(part: str) -> Fault:
    async def strike(stack: Stack, _draw: random.Random) -> None:
        await _running(stack, part, _signal(signal.SIGKILL))

    return Fault(f"kill -9 {part}", strike)


def deploy(part: str) -> Fault:
    async def strike(stack: Stack, _draw: random.Random) -> None:
        await _running(stack, part, _signal(signal.SIGTERM))

    return Fault(f"deploy {part}", strike)


def freeze(part: str) -> Fault:
    async def strike(stack: Stack, draw: random.Random) -> None:
        pids: list[int] = []
        await _running(stack, part, pids.append)
        for pid in pids:
            os.killpg(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(draw.uniform(3, 40))
            finally:
                if os.path.exists(f"/proc/{pid}"):
                    os.killpg(pid, signal.SIGCONT)

    return Fault(f"freeze {part}", strike)


def _admin(stack: Stack) -> psycopg.Connection:
    return psycopg.connect(stack.site.postgres_admin_url, autocommit=True, connect_timeout=5)


def relay_leader(service: str) -> Fault:
    """Cut the session that holds the relay's lock: another one takes over."""

    async def strike(stack: Stack, _draw: random.Random) -> None:
        with _admin(stack) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database ON oid = database "
                "WHERE locktype = 'advisory' AND datname = %s",
                [service],
            )

    return Fault(f"cut the relay's leader of {service}", strike)


def exhausted_pool() -> Fault:
    """Somebody else holds nearly every connection that the server has."""

    async def strike(stack: Stack, draw: random.Random) -> None:
        held: list[psycopg.Connection] = []
        try:
            while len(held) < 400:
                held.append(_admin(stack))
        except psycopg.OperationalError:
            pass
        try:
            await asyncio.sleep(draw.uniform(5, 20))
        finally:
            for connection in held:
                connection.close()

    return Fault("exhaust the connections of postgres", strike)


def revoked(service: str) -> Fault:
    """The service may not log in to its database, as after a rotation that went wrong."""

    async def strike(stack: Stack, draw: random.Random) -> None:
        with _admin(stack) as connection:
            connection.execute(f'ALTER ROLE "{service}" NOLOGIN')
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [service]
            )
        try:
            await asyncio.sleep(draw.uniform(5, 30))
        finally:
            with _admin(stack) as connection:
                connection.execute(f'ALTER ROLE "{service}" LOGIN')

    return Fault(f"revoke the database of {service}", strike)


def refused_by_kafka(service: str) -> Fault:
    """Every entry of the access list that lets the service read or write is gone for a while."""

    async def strike(stack: Stack, draw: random.Random) -> None:
        async with administrator(stack.site.kafka("admin")) as admin:
            theirs = {acl for acl in await requests.acls(admin) if acl[3] == f"User:{service}"}
            await requests.delete_acls(admin, theirs)
            try:
                await asyncio.sleep(draw.uniform(5, 30))
            finally:
                await requests.create_acls(admin, theirs)

    return Fault(f"revoke the Kafka access of {service}", strike)


def clock_jump(part: str) -> Fault:
    """The wall clock of one process jumps, and back; its monotonic clock goes on."""

    async def strike(stack: Stack, draw: random.Random) -> None:
        seconds = draw.choice([-3_600, -90, 90, 3_600])
        clocks.shift(stack.home, part, seconds)
        try:
            await asyncio.sleep(draw.uniform(10, 40))
        finally:
            clocks.shift(stack.home, part, 0)

    return Fault(f"jump of the clock of {part}", strike)


def half_open(part: str) -> Fault:
    """Packets to a part vanish without a word, in this network namespace alone."""

    async def strike(stack: Stack, draw: random.Random) -> None:
        rule = ["-i", "lo", "-p", "tcp", "--dport", str(stack.site.ports[part]), "-j", "DROP"]
        subprocess.run(["iptables", "-A", "INPUT", *rule], check=True)
        try:
            await asyncio.sleep(draw.uniform(5, 40))
        finally:
            subprocess.run(["iptables", "-D", "INPUT", *rule], check=True)

    return Fault(f"half-open connections to {part}", strike)


def full_disk(stack: Stack) -> Fault:
    """The volume that a serving replica writes its cache and its log to has no byte left."""
    folder = stack.home / "serving"

    async def strike(_stack: Stack, draw: random.Random) -> None:
        ballast = folder / "ballast"
        try:
            with ballast.open("wb") as file:
                while True:
                    file.write(b"\0" * 1_048_576)
        except OSError:
            pass
        try:
            await asyncio.sleep(draw.uniform(5, 20))
        finally:
            ballast.unlink(missing_ok=True)

    return Fault("fill the disk of serving", strike)


def private_network() -> bool:
    """Whether this process lives in a network namespace of its own, where packets may be dropped."""
    return os.environ.get("DRIFTWHEEL_CHAOS_NETWORK") == "private" and shutil.which("iptables") is not None


def all_faults(stack: Stack) -> list[Fault]:
    ours = _ours(stack)
    found = [make(part) for part in (*ours, *SOFT) for make in (kill, freeze)]
    found += [deploy(part) for part in ours]
    found += [make(service) for service in SERVICES for make in (relay_leader, revoked, refused_by_kafka)]
    found += [clock_jump(part) for part in ours]
    found += [exhausted_pool()] * 3
    if private_network():
        found += [half_open(part) for part in ("kafka", "postgres", "s3")] * 3
    if os.path.ismount(stack.home / "serving"):
        found += [full_disk(stack)] * 3
    return found
