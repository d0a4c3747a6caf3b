"""The spool on a real disk: bounded, torn, full, taken over, one folder for each process."""

import asyncio
import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.spool import Spool


async def drained(spool: Spool) -> list[bytes]:
    found: list[bytes] = []
    while segment := await spool.oldest():
        found += segment.records
        spool.remove(segment)
    return found


async def test_what_goes_in_comes_out_in_order_in_segments(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1_000_000, segment_records=3)
    records = [b'{"n": %d, "text": "\xc3\xa4 \xe2\x80\xa8"}' % n for n in range(7)]
    assert all(spool.append(record) for record in records)
    assert (spool.waiting, spool.is_due) == (7, True)
    await spool.sync()
    assert await drained(spool) == records
    assert (spool.size, spool.waiting, spool.since) == (0, 0, None)
    assert list(tmp_path.glob("*/*.spool")) == []


async def test_a_segment_is_the_same_until_it_is_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1_000_000)
    spool.append(b"1")
    first = await spool.oldest()
    spool.append(b"2")
    assert await spool.oldest() == first
    assert first is not None
    assert first.records == (b"1",)


async def test_beyond_the_limit_nothing_is_taken_and_nothing_is_lost(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 300)
    taken = [spool.append(b"x" * 50) for _ in range(10)]
    assert taken == [True] * 5 + [False] * 5
    assert await drained(spool) == [b"x" * 50] * 5
    assert spool.append(b"x" * 50)


@given(st.integers(1, 200), st.binary(max_size=30))
def test_a_torn_end_costs_its_own_record_only(cut: int, noise: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), 1_000_000)
        records = [b"record %d" % n for n in range(10)]
        for record in records:
            spool.append(record)
        spool.close()
        (path,) = Path(folder).glob("*/*.spool")
        content = path.read_bytes()
        path.write_bytes(content[:-cut] + noise)
        again = Spool(Path(folder), 1_000_000)
        found = asyncio.run(drained(again))
        again.close()
    whole = content[:-cut].count(b"\n")
    assert found[:whole] == records[:whole]
    assert set(found) <= set(records)


async def test_a_process_takes_over_what_dead_ones_left_and_nothing_of_the_living(tmp_path: Path) -> None:
    first, second, third = (Spool(tmp_path, 1_000_000) for _ in range(3))
    for number, spool in enumerate((first, second, third)):
        spool.append(b"%d" % number)
    second.close()
    heir = Spool(tmp_path, 1_000_000)
    assert await drained(heir) == [b"1"]
    first.close()
    third.close()
    heir.close()
    last = Spool(tmp_path, 1_000_000)
    assert await drained(last) == [b"0", b"2"]


async def test_what_is_closed_takes_nothing_any_more(tmp_path: Path) -> None:
    closed = Spool(tmp_path, 1_000_000)
    assert closed.append(b"before")
    closed.close()
    heir = Spool(tmp_path, 1_000_000)
    assert not closed.append(b"after")
    assert await drained(heir) == [b"before"]
    assert list(tmp_path.glob("*/*.spool")) == []


def _until_killed(folder: str, ready: "multiprocessing.Queue[int]") -> None:
    spool = Spool(Path(folder), 100_000_000)
    number = 0
    while True:
        spool.append(b"%d" % number)
        number += 1
        if number % 100 == 0:
            ready.put(number)


async def test_kill_9_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    process = context.Process(target=_until_killed, args=(str(tmp_path), ready))
    process.start()
    said = 0
    while said < 1_000:
        said = await asyncio.to_thread(ready.get, True, 120)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.join)
    found = await drained(Spool(tmp_path, 100_000_000))
    assert found == [b"%d" % number for number in range(len(found))]
    assert len(found) >= said


async def test_a_disk_that_is_full_sheds_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 1_000_000)
    assert spool.append(b"before")
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    assert not spool.append(b"torn by a full disk")
    monkeypatch.setattr(os, "write", write)
    assert spool.append(b"after")
    assert await drained(spool) == [b"before", b"after"]


async def test_its_files_are_their_owners_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1_000_000)
    spool.append(b"somebody's question")
    (path,) = (tmp_path / "spool").glob("*/*.spool")
    assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
