"""Raw Kafka record batches, as a client without manners may send them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow
import xxhash
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c, encode_varint
from aiokafka.structs import TopicPartition

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


@dataclass(frozen=True)
class Raw:
    """A record whose header names are bytes."""

    value: bytes | None = b"{}"
    key: bytes | None = None
    headers: Sequence[tuple[bytes, bytes | None]] = field(default_factory=tuple)
    timestamp: int = 1_750_000_000_000


def batch(records: Sequence[Raw], codec: str = "none", first_offset: int = 0) -> bytes:
    """One batch of format version 2."""
    begin = records[0].timestamp if records else 0
    body = _packed(codec, b"".join(_record(record, place, begin) for place, record in enumerate(records)))
    newest = max((record.timestamp for record in records), default=0)
    sealed = struct.pack(
        ">hiqqqhii", CODECS[codec], len(records) - 1, begin, newest, -1, -1, -1, len(records)
    )
    sealed += body
    head = struct.pack(">ibI", -1, 2, calc_crc32c(sealed))
    return struct.pack(">qi", first_offset, len(head) + len(sealed)) + head + sealed


def _packed(codec: str, body: bytes) -> bytes:
    match codec:
        case "none":
            return body
        case "snappy":
            return bytes(pyarrow.compress(body, codec="snappy", asbytes=True))
        case "lz4":
            return _lz4(body)
        case _:
            out = pyarrow.BufferOutputStream()
            with pyarrow.CompressedOutputStream(out, codec) as stream:
                stream.write(body)
            return bytes(out.getvalue().to_pybytes())


def _lz4(body: bytes) -> bytes:
    """A frame of independent blocks: brokers take no other."""
    flags = b"\x60\x40"
    frame = b"\x04\x22\x4d\x18" + flags + bytes([xxhash.xxh32_intdigest(flags) >> 8 & 0xFF])
    for at in range(0, len(body), 65_536):
        block = pyarrow.compress(body[at : at + 65_536], codec="lz4_raw", asbytes=True)
        frame += struct.pack("<I", len(block)) + block
    return frame + bytes(4)


def _record(record: Raw, place: int, begin: int) -> bytes:
    out = bytearray(b"\x00")
    encode_varint(record.timestamp - begin, out.append)
    encode_varint(place, out.append)
    _bytes(record.key, out)
    _bytes(record.value, out)
    encode_varint(len(record.headers), out.append)
    for name, value in record.headers:
        _bytes(name, out)
        _bytes(value, out)
    length = bytearray()
    encode_varint(len(out), length.append)
    return bytes(length + out)


def _bytes(value: bytes | None, out: bytearray) -> None:
    encode_varint(-1 if value is None else len(value), out.append)
    out += value or b""


async def produce(producer: Any, topic: str, raw: bytes, partition: int = 0) -> None:
    """Send a batch as it is. Raises KafkaError if the broker refuses it."""
    from aiokafka.errors import for_code

    await producer.partitions_for(topic)
    client = producer.client
    node = client.cluster.leader_for_partition(TopicPartition(topic, partition))
    answer = await client.send(node, ProduceRequest(None, -1, 10_000, [(topic, [(partition, raw)])]))
    for _, partitions in answer.topics:
        for _, code, *_ in partitions:
            if code:
                raise for_code(code)
