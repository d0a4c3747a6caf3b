"""What Kafka stores, read so that no record of a stranger can stop a partition or end the process.

aiokafka's reader raises for ever at a header name that is not UTF-8 and at a codec that it has no library for, unpacks
whatever a small batch expands to, and its compiled form reads beyond the end of a broken record. So it reads only the
frames of batches here, and records are read by this module.
"""

import functools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords

MAX_HEADERS = 256
MAX_NAME_BYTES = 1_024
MAX_BATCH_BYTES = 4 * 1_048_576
"""A batch when it is unpacked; packed it has at most as many bytes as the topic allows."""
_PREFIX, _HEADER = struct.Struct(">qi"), struct.Struct(">qiibIhiqqqhii")
_CODEC, _APPEND_TIME = 0x07, 0x08


class Unreadable(bytes):
    """The value of a record that must be buried as it is; `reason` says why."""

    reason: str

    @classmethod
    def because(cls, reason: str, value: bytes) -> "Unreadable":
        found = cls(value)
        found.reason = reason
        return found


@dataclass(frozen=True, slots=True)
class Record:
    """One record, as aiokafka's fetcher takes it. Times are in milliseconds since the epoch."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None


def install() -> None:
    """Make every consumer of this process read records this way. Safe to call again."""
    fetcher.MemoryRecords = Records


class Records:
    """The batches of one fetched partition: aiokafka's MemoryRecords, with our batches."""

    def __init__(self, data: bytes) -> None:
        self._inner = MemoryRecords(data)
        self._data = data
        self._at = 0

    def size_in_bytes(self) -> int:
        return len(self._data)

    def has_next(self) -> bool:
        return bool(self._inner.has_next())

    def next_batch(self) -> Any:
        batch = self._inner.next_batch()
        _, length = _PREFIX.unpack_from(self._data, self._at)
        begin, self._at = self._at, self._at + _PREFIX.size + length
        return Batch(batch, self._data[begin : self._at]) if isinstance(batch, DefaultRecordBatch) else batch


class Batch:
    """One batch. Iterating it never raises; what cannot be read becomes a record that says so."""

    def __init__(self, batch: Any, data: bytes) -> None:
        self._batch = batch
        self._data = data
        self.validate_crc = batch.validate_crc
        self.base_offset: int = batch.base_offset
        self.next_offset: int = batch.next_offset
        self.producer_id: int = batch.producer_id
        self.is_transactional: bool = batch.is_transactional
        self.is_control_batch: bool = batch.is_control_batch

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        codec = _HEADER.unpack_from(self._data)[5] & _CODEC
        try:
            body = unpack(codec, self._data[_HEADER.size :])
        except Exception as error:  # noqa: BLE001 (codecs raise what they like)
            reason = (
                str(error) if isinstance(error, TooLargeBatch) else "its compression is broken or unknown"
            )
            return iter([self._unreadable(self.next_offset - 1, f"The batch cannot be unpacked: {reason}.")])
        return self._records(body)

    def _records(self, body: bytes) -> Iterator[Record]:
        header = _HEADER.unpack_from(self._data)
        attributes, first, newest, count = header[5], header[7], header[8], header[12]
        at = 0
        appended = newest if attributes & _APPEND_TIME else None
        for _ in range(count):
            try:
                length, begin = _varint(body, at)
                at = begin + length
                if length < 0 or at > len(body):
                    raise ValueError("a length beyond the batch")
                record = _record(body[begin:at], self.base_offset, first, appended)
            except (ValueError, IndexError):
                yield self._unreadable(self.next_offset - 1, "The batch is broken from here on.")
                return
            yield record

    def _unreadable(self, offset: int, reason: str) -> Record:
        newest: int = _HEADER.unpack_from(self._data)[8]
        return Record(offset, newest, 0, None, Unreadable.because(reason, self._data), [])


def _record(data: bytes, base: int, first: int, appended: int | None) -> Record:
    """Raises ValueError or IndexError: not the format of Kafka's records, version 2."""
    delta, at = _varint(data, 1)
    place, at = _varint(data, at)
    key, at = _bytes(data, at)
    value, at = _bytes(data, at)
    count, at = _varint(data, at)
    headers: list[tuple[str, bytes | None]] = []
    refused = f"The message has more than {MAX_HEADERS} headers." if count > MAX_HEADERS else ""
    size = len(data)
    for _ in range(min(count, MAX_HEADERS)):
        # A zigzag length of one byte, written out here: a call for each costs more than all else of a record.
        length = data[at]
        if length < 0x80 and not length & 1 and (end := at + 1 + (length >> 1)) <= size:
            name, at = _name(data[at + 1 : end]), end
        else:
            given, at = _bytes(data, at)
            if given and len(given) > MAX_NAME_BYTES:
                refused, given = "The message has a header whose name is too long.", given[:MAX_NAME_BYTES]
            name = _name(given)
        length = data[at]
        if length < 0x80 and not length & 1 and (end := at + 1 + (length >> 1)) <= size:
            headers.append((name, data[at + 1 : end]))
            at = end
        else:
            content, at = _bytes(data, at)
            headers.append((name, content))
    if refused:
        value = Unreadable.because(refused, value or b"")
    kind = int(appended is not None)
    return Record(
        base + place, appended if appended is not None else first + delta, kind, key, value, headers
    )


def _bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    length = data[at]
    if length < 0x80:  # most are short, and a call costs more than the rest
        length, at = (length >> 1) ^ -(length & 1), at + 1
    else:
        length, at = _varint(data, at)
    if length < 0:
        return None, at
    end = at + length
    if end > len(data):
        raise ValueError("a length beyond the record")
    return data[at:end], end


@functools.lru_cache(maxsize=1_024)
def _name(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", "backslashreplace")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag number, and where it ends."""
    byte = data[at]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at + 1
    value, shift = byte & 0x7F, 7
    while byte & 0x80:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift > 70:
            raise ValueError("a number beyond 64 bits")
    return (value >> 1) ^ -(value & 1), at + 1


class TooLargeBatch(Exception):
    """A batch that unpacks to more than MAX_BATCH_BYTES; the message says so."""


def unpack(codec: int, data: bytes) -> bytes:
    """The records of a batch. Stops as soon as they are too many bytes.

    Raises TooLargeBatch, or whatever a codec raises at broken data.
    """
    limit = MAX_BATCH_BYTES + 1
    match codec:
        case 0:
            return data
        case 1:
            found = zlib.decompressobj(31).decompress(data, limit)
        case 2:
            found = _snappy(data)
        case 3 | 4:
            import pyarrow  # takes a third of a second: only who meets such a batch pays

            name = "lz4" if codec == 3 else "zstd"
            found = pyarrow.CompressedInputStream(pyarrow.BufferReader(data), name).read(limit)
        case _:
            raise ValueError("an unknown codec")
    return _bounded(found)


def _snappy(data: bytes) -> bytes:
    """Java's clients put blocks into a frame of their own; others send one block."""
    if data[:8] != b"\x82SNAPPY\x00":
        return _snappy_block(data)
    at, blocks, size = 16, [], 0
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at)
        blocks.append(_snappy_block(data[at + 4 : at + 4 + length]))
        size += len(blocks[-1])
        if size > MAX_BATCH_BYTES or length <= 0:
            break
        at += 4 + length
    return b"".join(blocks)


def _snappy_block(data: bytes) -> bytes:
    import pyarrow

    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    if size > MAX_BATCH_BYTES:
        raise TooLargeBatch(_TOO_LARGE)
    return bytes(pyarrow.Codec("snappy").decompress(data, size, asbytes=True))


_TOO_LARGE = f"it has more than {MAX_BATCH_BYTES} bytes"


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_BATCH_BYTES:
        raise TooLargeBatch(_TOO_LARGE)
    return data
