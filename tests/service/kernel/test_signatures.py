"""What changes the answers that users get is acted on only with the registry's signature, on real PostgreSQL."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord

from shared.artifacts.signing import FileSigner, FileVerifier, Trust
from shared.contracts.errors import Poison
from shared.contracts.events import ModelDeclared
from shared.contracts.policy import Policy
from shared.delivery import inbox, intake
from shared.delivery.inbox import Delivery
from shared.delivery.outbox import Outgoing, outgoing
from shared.delivery.unit_of_work import Database
from shared.telemetry.metrics import SIGNATURE_REFUSED
from tests.kit import caused, event_keys

SAID = ModelDeclared(model="support", revision=1, policy=Policy(model="support"), actor="ann")


@pytest.fixture
def signer(tmp_path: Path) -> FileSigner:
    return event_keys(tmp_path)[0]


@pytest.fixture
async def db(
    make_kernel_database: Callable[[], str], tmp_path: Path, signer: FileSigner
) -> AsyncIterator[Database]:
    database = Database("data", make_kernel_database(), Trust(FileVerifier(tmp_path / "registry-keys.json")))
    yield database.apart(2)
    await database.close()


def arrived(message: Outgoing, offset: int = 0) -> Delivery:
    """The message as it comes from Kafka."""
    headers = tuple(message.headers)
    record = ConsumerRecord(
        message.topic, 0, offset, 1_750_000_000_000, 0, message.key, message.body, None, 1, 1, headers
    )
    return intake.take(record, datetime.now(UTC))[0]


def forged(genuine: Outgoing) -> dict[str, Outgoing]:
    """Messages that look like it, by what is wrong with them."""
    bare = [header for header in genuine.headers if header[0] not in {"ce_keyid", "ce_signature"}]
    replayed = [(name, b"another" if name == "ce_id" else value) for name, value in genuine.headers]
    stranger = [(name, b"stranger" if name == "ce_keyid" else value) for name, value in genuine.headers]
    rewritten = (genuine.body or b"").replace(b'"revision":1', b'"revision":1000000000')
    return {
        "missing": dataclasses.replace(genuine, headers=bare),
        "of an unknown key": dataclasses.replace(genuine, headers=stranger),
        "wrong: under another id": dataclasses.replace(genuine, headers=replayed),
        "wrong: with another body": dataclasses.replace(genuine, body=rewritten),
    }


async def test_a_forgery_is_buried_and_counted_and_takes_nothing_from_what_it_imitates(
    db: Database, signer: FileSigner
) -> None:
    genuine = outgoing(SAID, caused(SAID), signer=signer)
    for offset, (wrong, message) in enumerate(forged(genuine).items()):
        delivery, reason = arrived(message, offset), wrong.partition(":")[0]
        counter = SIGNATURE_REFUSED.labels("data", SAID.topic, reason)
        before = counter._value.get()
        with pytest.raises(Poison, match=reason):
            async with db.unit_of_work() as work:
                await inbox.claim(work, delivery, 1)
        assert counter._value.get() == before + 1
        assert await intake.bury(db, "data", delivery, 1, reason)
    async with db.unit_of_work() as work:
        assert await inbox.claim(work, arrived(genuine, 9), 1), "the genuine event was pre-empted"
        rows = await work.execute("SELECT state, count(*) FROM inbox GROUP BY state ORDER BY state")
        assert [tuple(row) for row in rows] == [("dead", 4), ("done", 1)]


async def test_a_batch_goes_on_without_the_forgeries_in_it(db: Database, signer: FileSigner) -> None:
    genuine = [outgoing(SAID, caused(SAID), signer=signer) for _ in range(2)]
    mixed = [genuine[0], *forged(genuine[0]).values(), genuine[1]]
    async with db.unit_of_work() as work:
        claims = await inbox.claim_many(work, [arrived(one, place) for place, one in enumerate(mixed)])
    assert claims == ["fresh", "reused", "reused", "reused", "reused", "fresh"]


async def test_who_has_no_key_believes_nobody(
    make_kernel_database: Callable[[], str], signer: FileSigner
) -> None:
    database = Database("data", make_kernel_database())
    with pytest.raises(Poison, match="unknown key"):
        async with database.unit_of_work() as work:
            await inbox.claim(work, arrived(outgoing(SAID, caused(SAID), signer=signer)), 1)
    await database.close()


async def test_the_registry_signs_in_the_transaction_that_decides(
    make_kernel_database: Callable[[], str], db: Database, signer: FileSigner
) -> None:
    """So relay, redrive and replay carry the signature unchanged."""
    registry = Database("registry", make_kernel_database(), Trust(signer=signer))
    async with registry.unit_of_work() as work:
        work.emit(SAID)
    async with registry.unit_of_work() as work:
        [row] = await work.execute("SELECT event_id, key, headers, body FROM outbox")
    await registry.close()
    headers = [(name, value.encode()) for name, value in row.headers]
    sent = Outgoing(row.event_id, SAID.topic, bytes(row.key), headers, bytes(row.body), "c")
    async with db.unit_of_work() as work:
        assert await inbox.claim(work, arrived(sent), 1)
