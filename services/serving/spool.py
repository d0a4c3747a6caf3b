"""Records on local disk until they are where they belong: appended, sealed into segments, removed once delivered.

What was appended survives the death of the process; what was synced survives the machine's. A record that was torn by
either is skipped. Each process has a folder of its own below the one it is given, and takes over those of dead ones.
"""

import asyncio
import fcntl
import os
import time
import zlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

SEGMENT_BYTES = 8_388_608
_SUFFIX = ".spool"
_MOST_PROCESSES = 1_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Segment:
    """Records that are delivered together, in the order in which they came."""

    path: Path
    records: tuple[bytes, ...]
    damaged: int = 0


@dataclass(slots=True, eq=False)
class _Part:
    """A segment as it lies on the disk; `file`: its descriptor, while it grows and until it is synced.

    Written past Python's buffers, so that a killed process loses nothing.
    """

    path: Path
    since: float
    file: int | None = None
    records: int = 0
    size: int = 0


class Spool:
    """`append` in the event loop's thread, as often as one likes; one reader."""

    def __init__(self, folder: Path, limit_bytes: int, segment_records: int = 200) -> None:
        """Raises OSError if the folder cannot be made or read."""
        self._limit = limit_bytes
        self._segment_records = segment_records
        self._folder, self._lock = _own(folder)
        self._sealed: deque[_Part] = deque()
        self._growing: _Part | None = None
        self._unsynced: list[_Part] = []
        self._syncing = asyncio.Lock()
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            found = path.stat()
            self._sealed.append(_Part(path, found.st_mtime, None, len(_read(path)[0]), found.st_size))
        self._next = int(self._sealed[-1].path.stem) + 1 if self._sealed else 0
        self.size = sum(part.size for part in self._sealed)
        self.waiting = sum(part.records for part in self._sealed)

    def append(self, record: bytes) -> bool:
        """Keep a record without a line feed; False if there is no room for it, on the disk or by the limit, or if the
        spool is closed: its folder may belong to another process already."""
        line = b"%08x %s\n" % (zlib.crc32(record), record)
        if self._lock.closed or self.size + len(line) > self._limit:
            return False
        try:
            part = self._growing = self._growing or self._begin()
            written = os.write(part.file, line) if part.file is not None else 0
        except OSError as error:
            log.error("spool.failed", error=type(error).__name__, code=error.errno)
            written = 0
        if self._growing is None:
            return False
        if self._growing not in self._unsynced:
            self._unsynced.append(self._growing)
        self._growing.size += written
        self.size += written
        if written < len(line):  # the disk is full: what was torn is skipped by the reader
            self.seal()
            return False
        self._growing.records += 1
        self.waiting += 1
        if self._growing.records >= self._segment_records or self._growing.size >= SEGMENT_BYTES:
            self.seal()
        return True

    @property
    def is_due(self) -> bool:
        """Whether a whole segment waits."""
        return bool(self._sealed)

    @property
    def since(self) -> float | None:
        """When the oldest record came, in seconds since the epoch; None if nothing waits."""
        first = self._sealed[0] if self._sealed else self._growing
        return first.since if first else None

    def _begin(self) -> _Part:
        path = self._folder / f"{self._next:012d}{_SUFFIX}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._next += 1
        return _Part(path, time.time(), file)

    def seal(self) -> None:
        """Whatever comes now goes into another segment."""
        if self._growing is not None:
            self._sealed.append(self._growing)
            self._growing = None

    async def sync(self) -> None:
        """Return when all that was appended before this call is on the disk. Raises OSError."""
        async with self._syncing:
            parts, self._unsynced = self._unsynced, []
            for part in parts:
                if part.file is not None:
                    await asyncio.to_thread(_sync, part.file, self._folder)
                    if part is not self._growing and part not in self._unsynced:
                        os.close(part.file)
                        part.file = None

    async def oldest(self) -> Segment | None:
        """The first segment that waits, sealed and the same until it is removed; None if nothing does."""
        if not self._sealed:
            self.seal()
        if not self._sealed:
            return None
        path = self._sealed[0].path
        return Segment(path, *await asyncio.to_thread(_read, path))

    def remove(self, segment: Segment) -> None:
        """It is delivered."""
        part = self._sealed.popleft()
        if part.path != segment.path:
            raise ValueError("segments are delivered in order")
        part.path.unlink()
        self.size -= part.size
        self.waiting -= part.records

    def close(self) -> None:
        """Leave what waits to the next process."""
        for part in (*self._unsynced, *self._sealed, *([self._growing] if self._growing else [])):
            if part.file is not None:
                os.close(part.file)
                part.file = None
        self._lock.close()


def _own(folder: Path) -> tuple[Path, BinaryIO]:
    """A folder that nobody else writes to while this process lives, with what others have left in theirs."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine: tuple[Path, BinaryIO] | None = None
    number = 0
    while mine is None or (folder / str(number)).is_dir():
        if number > _MOST_PROCESSES:
            raise OSError(f"every folder of {folder} is taken; give each process a folder of its own")
        slot = folder / str(number)
        number += 1
        slot.mkdir(mode=0o700, exist_ok=True)
        lock = (slot / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        if mine is None:
            mine = (slot, lock)
            continue
        _adopt(slot, mine[0])
        lock.close()
    return mine


def _adopt(left: Path, mine: Path) -> None:
    """Move the segments of a dead process behind mine."""
    last = max((int(path.stem) for path in mine.glob(f"*{_SUFFIX}")), default=-1)
    for number, path in enumerate(sorted(left.glob(f"*{_SUFFIX}")), last + 1):
        path.rename(mine / f"{number:012d}{_SUFFIX}")


def _sync(file: int, folder: Path) -> None:
    os.fsync(file)
    descriptor = os.open(folder, os.O_RDONLY)  # the name of a new file is on the disk only with its folder
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> tuple[tuple[bytes, ...], int]:
    """The whole records of a segment, and how many lines are none."""
    found, damaged = [], 0
    for line in path.read_bytes().split(b"\n"):
        check, _, record = line.partition(b" ")
        if record and check == b"%08x" % zlib.crc32(record):
            found.append(record)
        elif line:
            damaged += 1
    return tuple(found), damaged
