"""Record batches as Kafka may hand them out: every one is read, or says why not, and none of it raises."""

import inspect
import random
import time
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.record import default_records, memory_records

from shared.delivery import records
from shared.delivery.records import MAX_BATCH_BYTES, MAX_HEADERS, Records, Unreadable
from tests.records import CODECS, Raw, batch


@pytest.fixture(params=["compiled", "python"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka's own reader, of both makes."""
    if request.param == "python":
        monkeypatch.setattr(records, "DefaultRecordBatch", default_records._DefaultRecordBatchPy)
        monkeypatch.setattr(memory_records, "DefaultRecordBatch", default_records._DefaultRecordBatchPy)
        monkeypatch.setattr(records, "MemoryRecords", memory_records._MemoryRecordsPy)


def unpacked(data: bytes) -> list[Any]:
    """As aiokafka's fetcher does it."""
    found, batches = [], Records(data)
    while batches.has_next():
        one = batches.next_batch()
        assert one.validate_crc()
        found += list(one)
    return found


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [10, 200_000])
def test_records_are_read_whatever_their_header_names_are(codec: str, size: int) -> None:
    sent = [
        Raw(b"a" * size, b"k", [(b"ce_id", b"1"), (b"n", None)]),
        Raw(None, None, [(b"\xff\xfe-name", b"v"), (b"", b""), ("é".encode(), b"\xff")], 1_750_000_000_007),
        Raw(b"", b"", [], 1_749_999_999_000),
    ]
    found = unpacked(batch(sent, codec, 40) + batch([Raw(b"next")], first_offset=43))
    assert [(r.offset, r.value, r.key) for r in found] == [
        (40, b"a" * size, b"k"),
        (41, None, None),
        (42, b"", b""),
        (43, b"next", None),
    ]
    assert [r.timestamp for r in found[:3]] == [1_750_000_000_000, 1_750_000_000_007, 1_749_999_999_000]
    assert list(found[1].headers) == [("\\xff\\xfe-name", b"v"), ("", b""), ("é", b"\xff")]


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_batch_that_swells_is_one_unreadable_record(codec: str) -> None:
    bomb = batch([Raw(bytes(MAX_BATCH_BYTES + 1)), Raw(b"x")], codec, 7)
    assert len(bomb) < MAX_BATCH_BYTES / 15
    [found] = unpacked(bomb)
    assert isinstance(found.value, Unreadable)
    assert "bytes" in found.value.reason
    assert found.offset == 8, "the fetcher would ask for the batch again"


@pytest.mark.usefixtures("reader")
def test_a_flood_of_headers_is_not_read_to_its_end() -> None:
    [found] = unpacked(batch([Raw(b"v", None, [(b"", None)] * 450_000)]))
    assert isinstance(found.value, Unreadable)
    assert len(found.headers) == MAX_HEADERS
    assert str(MAX_HEADERS) in found.value.reason


@pytest.mark.usefixtures("reader")
def test_a_header_name_without_end_is_cut() -> None:
    [found] = unpacked(batch([Raw(b"v", None, [(b"\xff" * 900_000, b"")])]))
    assert isinstance(found.value, Unreadable)
    assert len(found.headers[0][0]) < 5_000


def broken(whole: bytes, rng: random.Random) -> bytes:
    """The same batch with some bytes of its records altered; its frame stays sound, as a broker would have it."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(61, len(data))] = rng.randrange(256)
    data[17:21] = default_records.calc_crc32c(bytes(data[21:])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.usefixtures("reader")
def test_broken_batches_never_raise_and_always_move_on() -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(1_500):
        sent = [
            Raw(rng.randbytes(rng.randrange(40)), None, [(rng.randbytes(3), rng.randbytes(5))])
            for _ in range(rng.randint(1, 5))
        ]
        whole = batch(sent, rng.choice(list(CODECS)), 100)
        found = unpacked(broken(whole, rng))
        assert found, "a batch without a record would be fetched for ever"
        assert Records(whole).next_batch().next_offset == 100 + len(sent)


def test_every_consumer_of_the_process_reads_this_way() -> None:
    """What is relied on in aiokafka: its fetcher takes the class that unpacks a partition from its own module."""
    from shared.delivery.kafka import connection
    from shared.delivery.settings import DeliverySettings

    connection(DeliverySettings())
    assert fetcher.MemoryRecords is Records
    assert "MemoryRecords(" in inspect.getsource(fetcher.Fetcher._proc_fetch_request)
    used = inspect.getsource(fetcher.PartitionRecords) + inspect.getsource(
        fetcher.Fetcher._proc_fetch_request
    )
    for attribute in ("validate_crc", "producer_id", "base_offset", "is_control_batch", "next_offset"):
        assert f"next_batch.{attribute}" in used
    assert "records.size_in_bytes()" in used
