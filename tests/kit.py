"""Test set-up that every service shares: keys and tokens, settings of a service on real parts, its HTTP edge, and
looks into its database."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from fastapi import FastAPI
from joserfc.jwk import KeySet, OKPKey
from sqlalchemy import MetaData, text

from shared.artifacts.signing import FileSigner
from shared.contracts.envelope import Envelope, new_id
from shared.contracts.events import Event
from shared.delivery.schema import upgrade
from shared.delivery.unit_of_work import Database
from shared.http.tokens import mint
from tests.conftest import PostgresServer, S3Store

KERNEL_TABLES = ("inbox", "outbox", "sent", "dead_letters", "attempts", "procrastinate_jobs")
T = TypeVar("T")
UseCases = Mapping[type[Event], Callable[..., Awaitable[None]]]


async def until(look: Callable[[], Awaitable[T | None]], what: str = "it", seconds: float = 180) -> T:
    """The first true value of `look`; fails after `seconds`, saying what did not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := await look():
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what} did not come in {seconds} s")


def wait_until(look: Callable[[], T | None], what: str = "it", seconds: float = 180) -> T:
    """The same for a test without an event loop."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come in {seconds} s")


@dataclass(frozen=True)
class Keys:
    """What signs tokens and what signs the registry's events, and the files of the public halves."""

    private: OKPKey
    jwks_file: Path
    registry: FileSigner
    signing_keys_file: Path

    @classmethod
    def make(cls, folder: Path) -> "Keys":
        private = OKPKey.generate_key("Ed25519", parameters={"kid": "test", "use": "sig"}, private=True)
        jwks_file = folder / "jwks.json"
        jwks_file.write_text(json.dumps(KeySet([private]).as_dict(private=False)))
        return cls(private, jwks_file, *event_keys(folder))

    def token(self, *scopes: str, subject: str = "tester") -> str:
        return mint(self.private, subject, list(scopes), 3_600)

    def headers(self, *scopes: str, subject: str = "tester") -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(*scopes, subject=subject)}"}


def event_keys(folder: Path, name: str = "registry", service: str = "registry") -> tuple[FileSigner, Path]:
    """A signer of events, and the file of its public key, which names the service."""
    key = OKPKey.generate_key("Ed25519", parameters={"kid": name}, private=True)
    private, public = folder / f"{name}-key.json", folder / f"{name}-keys.json"
    private.write_text(json.dumps(key.as_dict(private=True)))
    public.write_text(json.dumps({"keys": [key.as_dict(private=False) | {"service": service}]}))
    return FileSigner(private), public


def connected(service: str, postgres: PostgresServer, s3: S3Store, keys: Keys) -> dict[str, Any]:
    """Settings of a service on a fresh database at its newest schema, with its own S3 credentials."""
    url = postgres.fresh_database(service)
    upgrade(service, url)
    access, secret = s3.key(service)
    return {
        "database_url": url,
        "s3_endpoint": s3.endpoint,
        "s3_access_key": access,
        "s3_secret_key": secret,
        "auth_jwks_file": keys.jwks_file,
        "signing_keys_file": keys.signing_keys_file,
    }


@asynccontextmanager
async def asking(app: FastAPI, headers: Mapping[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the app's HTTP edge, without a socket."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://service", headers=dict(headers)
    ) as http:
        yield http


async def empty(db: Database, metadata: MetaData) -> None:
    """Forget everything. TRUNCATE passes the triggers that keep a history from being changed."""
    tables = ", ".join(f'"{name}"' for name in [*metadata.tables, *KERNEL_TABLES])
    async with db.unit_of_work() as work:
        await work.session.execute(text(f"TRUNCATE {tables} CASCADE"))


def caused(event: Event, *, at: datetime | None = None, story: str | None = None) -> Envelope:
    return Envelope(
        new_id(), "/test", event.ce_type(), at or datetime.now(UTC), correlationid=story or new_id()
    )


async def tell(
    db: Database,
    use_cases: UseCases,
    events: Iterable[Event],
    envelope: Callable[[Event], Envelope] = caused,
) -> None:
    """Deliver events, each in a unit of work of its own, as the bus does."""
    for event in events:
        async with db.unit_of_work(envelope(event)) as work:
            await use_cases[type(event)](work, event)


async def announced(db: Database, topic: str | None = None) -> list[dict[str, Any]]:
    """Bodies of the events in the outbox, oldest first, each with its `topic` and `correlationid`."""
    async with db.unit_of_work() as work:
        rows = await work.execute("SELECT topic, body, correlationid FROM outbox ORDER BY id")
        return [
            {"topic": t, **json.loads(bytes(body)), "correlationid": c}
            for t, body, c in rows
            if topic in (None, t)
        ]


async def deferred(db: Database) -> list[tuple[str, str]]:
    """Name and lock of every job, in the order in which they were wanted."""
    async with db.unit_of_work() as work:
        rows = await work.execute("SELECT task_name, lock FROM procrastinate_jobs ORDER BY id")
        return [(name, lock) for name, lock in rows]


@contextmanager
def silent_store() -> Iterator[str]:
    """The endpoint of a store that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
