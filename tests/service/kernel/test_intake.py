"""What strangers send, on real Kafka and PostgreSQL: read or buried, one by one, and nothing stands still."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient

from infra.kafka import topics
from shared.contracts.envelope import Envelope
from shared.delivery import intake
from shared.delivery.inbox import Delivery
from shared.delivery.kafka import connection
from shared.delivery.unit_of_work import Database
from tests.kit import until
from tests.records import Raw, batch, produce
from tests.service.kernel.test_delivery import Desk, desk
from tests.service.kernel.test_delivery import topic as topic  # noqa: PLC0414 (a fixture)

__all__ = ["desk"]
HAN = "漢" * 1_000


def sound(
    desk: Desk, name: str, *headers: tuple[bytes, bytes | None], timestamp: int = 1_750_000_000_000
) -> Raw:
    key, value, given = desk.event(name)
    kept = [(title.encode(), content) for title, content in given]
    return Raw(value, key, [*kept, *headers], timestamp)


async def states(desk: Desk) -> list[str]:
    return sorted((await desk.inbox()).values())


async def test_no_record_that_a_broker_takes_stands_in_the_way_of_the_next(desk: Desk) -> None:
    def with_header(name: str, value: bytes) -> Raw:
        one = sound(desk, "x")
        return Raw(
            one.value, one.key, [*[h for h in one.headers if h[0] != name.encode()], (name.encode(), value)]
        )

    dead = {
        "an id too large for an index": batch([with_header("ce_id", HAN.encode())]),
        "a correlation id too large for an index": batch([with_header("ce_correlationid", HAN.encode())]),
        "a moment that no other zone has": batch([with_header("ce_time", b"0001-01-01T00:00:00+14:00")]),
        "a batch that swells": batch([Raw(bytes(20_000_000))], "zstd"),
        "a flood of headers": batch([Raw(b"{}", None, [(b"", None)] * 400_000)]),
        "a megabyte of nesting": batch([Raw(b"[" * 1_000_000)]),
        "escapes that never end": batch([Raw(b"[" * 65 + b'"' + b'\\"' * 400_000)]),
        "a NUL in the name of a header": batch([Raw(b"{", None, [(b"a\x00b", b"\x00")])]),
    }
    alive = {
        "header-name": batch([sound(desk, "header-name", (b"\xff\xfe", b"v"))]),
        "before-year-one": batch([sound(desk, "before-year-one", timestamp=-(10**15))]),
        "no-time": batch([sound(desk, "no-time", timestamp=-1)]),
        **{codec: batch([sound(desk, codec)], codec) for codec in ("gzip", "snappy", "lz4", "zstd")},
    }
    async with desk.open():
        await desk.send("before")
        for place, raw in enumerate([*dead.values(), *alive.values()]):
            await produce(desk.producer, desk.topic, raw)
            await desk.send(f"after-{place}")
        expected = {"before", *alive, *(f"after-{place}" for place in range(len(dead) + len(alive)))}

        async def settled() -> bool:
            found = await states(desk)
            return found.count("dead") == len(dead) and found.count("done") == len(expected)

        await until(settled, "every record to be handled or buried", 120)
    assert set(await desk.effects()) == expected


async def test_two_sources_may_use_the_same_id(desk: Desk) -> None:
    async with desk.open():
        for source in ("crm", "billing"):
            key, value, headers = desk.event(source)
            named = [("ce_id", b"1"), ("ce_source", f"/{source}".encode()), *headers[1:2]]
            await desk.producer.send_and_wait(desk.topic, value, key=key, headers=named, partition=0)

        async def both() -> bool:
            return set(await desk.effects()) == {"crm", "billing"}

        await until(both, "both messages")


async def test_other_systems_choose_their_own_keys(desk: Desk) -> None:
    keys = {"none": None, "empty": b"", "own": b"order-7", "json": b'"support"'}
    async with desk.open():
        for name, key in keys.items():
            await produce(desk.producer, desk.topic, batch([Raw(desk.event(name)[1], key)]))

        async def all_of_them() -> bool:
            return set(await desk.effects()) == set(keys)

        await until(all_of_them, "all messages")


async def test_messages_without_an_id_are_new_in_a_topic_that_was_made_anew(desk: Desk, kafka: Any) -> None:
    async def send_and_see(*names: str) -> None:
        for name in names:
            await desk.producer.send_and_wait(desk.topic, desk.event(name)[1], partition=0)
        async with desk.open():

            async def seen() -> bool:
                return set(names) <= set(await desk.effects())

            await until(seen, "the messages", 60)

    await send_and_see("first", "second")
    admin = AIOKafkaAdminClient(**connection(kafka.settings()))
    await admin.start()
    try:
        await admin.delete_topics([desk.topic])

        async def gone() -> bool:
            return desk.topic not in await admin.list_topics()

        await until(gone, "the topic's end")
    finally:
        await admin.close()
    await asyncio.to_thread(kafka.create, topics.Topic(desk.topic, 1))
    await send_and_see("third", "fourth")
    assert await states(desk) == ["done"] * 4


def test_a_message_whose_words_cannot_be_stored_is_buried_without_them(
    make_kernel_database: Callable[[], str],
) -> None:
    """Nothing that reads messages lets such ids through; should something ever, no partition may wait for it."""

    async def check() -> None:
        db = Database("data", make_kernel_database())
        now = datetime.now(UTC)
        unstorable = "".join(chr(0x4E00 + number * 7 % 20_000) for number in range(3_000))
        envelope = Envelope(unstorable, "/x\x00", "t", now, unstorable)
        delivery = Delivery("t", 0, 7, b"k", [("n\x00", b"\x00")], b"body", now, now, envelope, ["\ud800"])
        try:
            assert await intake.bury(db, "data", delivery, 1, "because")
            assert not await intake.bury(db, "data", delivery, 1, "because"), "buried twice"
            async with db.unit_of_work() as work:
                [known] = await work.execute("SELECT event_id, state FROM inbox")
                [row] = await work.execute("SELECT event_id, state, body, error FROM dead_letters")
                sent = (await work.execute("SELECT count(*) FROM outbox")).scalar_one()
        finally:
            await db.close()
        assert known == (delivery.fingerprint, "dead")
        assert row == (delivery.fingerprint, "dead", b"body", "because")
        assert sent == 1

    asyncio.run(check())
