"""Real Kafka, PostgreSQL and S3 for tests: each is started by the first test that asks for it, once per session."""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError
from psycopg import sql
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from infra.kafka import topics
from infra.local.stack import Stack
from shared.delivery.kafka import connection
from shared.delivery.settings import KafkaSettings

WHOLE_PLATFORMS = (
    "tests/contract/engines/",
    "tests/faults/",
    "tests/flow/",
    "tests/service/infra/test_alerts",
    "tests/service/infra/test_traces",
)
KEPT = ("DRIFTWHEEL_CACHE", "DRIFTWHEEL_BASE_MODEL", "DRIFTWHEEL_ENGINE_PYTHON")
HIGH_WATERMARK = -1
for _size in ("COLUMNS", "LINES"):  # the terminal of whoever runs the tests is no part of them
    os.environ.pop(_size, None)
_numbers = itertools.count(1)


@dataclass(frozen=True)
class PostgresServer:
    """`url(service)` opens the service's own database, `fresh_database()` a new empty one."""

    stack: Stack = field(repr=False)

    @property
    def admin_url(self) -> str:
        return self.stack.site.postgres_admin_url

    def url(self, service: str) -> str:
        return self.stack.site.database_url(service)

    def fresh_database(self, owner: str = "data") -> str:
        """URL of a new database, owned by a service's role."""
        name = f"test_{next(_numbers)}"
        create = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(
            sql.Identifier(name), sql.Identifier(owner)
        )
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(create)
        return self.url(owner).rpartition("/")[0] + f"/{name}"


@dataclass(frozen=True)
class KafkaBroker:
    """All topics of the platform exist; `fresh_topic()` adds one of the test's own.

    `settings(role)` is how a service, `console` or `admin` reaches it, `client(role)` the same for any aiokafka client:
    `AIOKafkaProducer(**kafka.client("serving"))`.
    """

    stack: Stack = field(repr=False)

    @property
    def bootstrap(self) -> str:
        return self.stack.site.kafka_bootstrap

    def settings(self, role: str = "admin") -> KafkaSettings:
        return self.stack.site.kafka(role)

    def client(self, role: str = "admin") -> dict[str, Any]:
        return connection(self.settings(role))

    def fresh_topic(self, partitions: int = 1) -> str:
        name = f"test.{next(_numbers)}"
        self.create(topics.Topic(name, partitions))
        return name

    def create(self, *wanted: topics.Topic) -> None:
        asyncio.run(topics.ensure(self.settings(), wanted))

    async def forget(self) -> None:
        """Delete the records of every event topic. Compacted topics keep theirs: Kafka allows nothing else."""
        everything = {
            TopicPartition(topic.name, partition): RecordsToDelete(before_offset=HIGH_WATERMARK)
            for topic in topics.wanted()
            if "compact" not in topic.config.get("cleanup.policy", "")
            for partition in range(topic.partitions)
        }
        admin = AIOKafkaAdminClient(**self.client())
        await admin.start()
        try:
            async with asyncio.timeout(30):
                while not await _deleted(admin, everything):
                    await asyncio.sleep(0.1)
        finally:
            await admin.close()


async def _deleted(admin: AIOKafkaAdminClient, records: dict[TopicPartition, RecordsToDelete]) -> bool:
    """False while a partition has no leader: a topic is listed a little before it can be used."""
    try:
        await admin.delete_records(records)
    except KafkaError as error:
        if error.retriable:
            return False
        raise
    return True


@dataclass(frozen=True)
class S3Store:
    """All buckets of the platform exist; `key(role)` is the access and secret key of a service or of `admin`."""

    stack: Stack = field(repr=False)

    @property
    def endpoint(self) -> str:
        return self.stack.site.s3_endpoint

    def key(self, role: str = "admin") -> tuple[str, str]:
        return self.stack.site.s3_key(role)


class ByModule(LoadScopeScheduling):
    """Side by side (`-n`), a module stays together for its fixtures, and no two whole platforms or engines run at once."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "whole platforms" if module.startswith(WHOLE_PLATFORMS) else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByModule:
    return ByModule(config, log)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """An empty stack in a folder of its own; `stack.start("kafka")` adds parts to it."""
    for name in [n for n in os.environ if n.startswith("DRIFTWHEEL_") and n not in KEPT]:
        del os.environ[name]  # a developer's own settings must not leak into tests
    home = Path(tempfile.mkdtemp(prefix="driftwheel-"))
    with Stack(home, engine="transformers", durable=False, http_port=18080) as stack:
        yield stack
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(stack: Stack) -> PostgresServer:
    stack.start("postgres")
    return PostgresServer(stack)


@pytest.fixture(scope="module")
def kafka(stack: Stack) -> KafkaBroker:
    """The events of other modules are gone: a service that a test starts hears only what its own test says."""
    stack.start("kafka")
    broker = KafkaBroker(stack)
    asyncio.run(broker.forget())
    return broker


@pytest.fixture(scope="session")
def s3(stack: Stack) -> S3Store:
    stack.start("s3")
    return S3Store(stack)
