"""Files are read in bounded memory, and every row is either a record or counted as broken."""

import csv
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.data.readers import READERS, kind_of
from services.data.readers.lines import Broken, Unreadable

LIMIT = 4_096
ROWS = [{"prompt": f"Frage {n}: wär's möglich?", "completion": "ja\nnein"} for n in range(700)]


def read(path: Path, limit: int = LIMIT) -> list[Any]:
    return [record for _, record in READERS[kind_of(path, path.name)](path, limit)]


def broken(records: list[Any]) -> Counter[str]:
    return Counter(record.reason for record in records if isinstance(record, Broken))


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=300)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_what_was_written_is_read(tmp_path: Path, suffix: str) -> None:
    assert read(write(tmp_path / f"rows{suffix}", ROWS)) == ROWS


@pytest.mark.parametrize(
    ("content", "good", "bad"),
    [
        (b"", 0, {}),
        (b"\n \n\r\n", 0, {}),
        (b'{"a":1}\r\n{"a":2}', 2, {}),
        (b'\xef\xbb\xbf{"a":1}\n', 1, {}),
        (b'{"a":1}\nnot json\n[1]\n"text"\n5\n{"a":2}', 2, {"invalid_row": 4}),
        (b'{"a":NaN}\n{"a":Infinity}\n{"a":1e999}\n{"a":1}\n', 1, {"invalid_row": 3}),
        (b'{"a":"\\ud800"}\n{"a":"\xff"}\n{"a":"\xc3\xa4"}\n{"a":"\xe4"}\n', 1, {"invalid_row": 3}),
        (b'{"a":' + b"[" * 100_000 + b"\n" + b'{"a":1}\n', 1, {"invalid_row": 1}),
        (b'{"a":' + b"9" * 5_000 + b'}\n{"a":1}\n', 1, {"invalid_row": 1}),
        (b'{"a":1} trailing\n{"a":1}\n', 1, {"invalid_row": 1}),
    ],
)
def test_broken_lines_are_counted_and_the_next_one_is_read(
    tmp_path: Path, content: bytes, good: int, bad: dict[str, int]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    records = read(path, limit=1_000_000)
    assert len(records) - sum(broken(records).values()) == good
    assert broken(records) == bad


@pytest.mark.parametrize("ending", [b"\n", b""])
def test_a_line_of_100_mb_is_counted_without_being_loaded(tmp_path: Path, ending: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a":1}\n{"a":"')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}' + ending)
        if ending:
            file.write(b'{"a":2}')
    tracemalloc.start()
    records = read(path, limit=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert broken(records) == {"row_too_large": 1}
    assert len(records) == (3 if ending else 2)
    assert peak < 8_000_000


@pytest.mark.parametrize(("size", "kept"), [(LIMIT, True), (LIMIT + 1, False)])
def test_the_limit_counts_the_line_without_its_end(tmp_path: Path, size: int, kept: bool) -> None:
    row = json.dumps({"a": "x" * (size - 9)}, separators=(",", ":")).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(row.ljust(size) + b"\n")
    assert bool(broken(read(path))) is not kept


def test_csv_counts_rows_of_another_width_and_broken_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b"\xef\xbb\xbfprompt,completion\r\na,b\r\nonly one\r\n1,2,3\r\n\r\n\xff,b\r\n"
        + b"x" * (LIMIT + 1)
        + b",b\r\n"
        + '"two\r\nlines",ü\r\n=cmd(),+1\r\n'.encode()
    )
    records = read(path)
    assert [record for record in records if not isinstance(record, Broken)] == [
        {"prompt": "a", "completion": "b"},
        {"prompt": "two\nlines", "completion": "ü"},
        {"prompt": "=cmd()", "completion": "+1"},
    ]
    assert broken(records) == {"invalid_row": 3, "row_too_large": 1}


def test_csv_with_a_quote_that_never_ends_stays_in_bounds(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'prompt,completion\na,b\n"never closed\n' + b"c,d\n" * 60_000)
    tracemalloc.start()
    records = [type(record) for _, record in READERS["csv"](path, LIMIT)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert Broken in records
    assert peak < 15_000_000


def test_parquet_that_refers_to_one_large_text_many_times_stays_packed(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    large = pa.array(["x" * 3_000_000, "fits"])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000 + [1]), large)
    pq.write_table(pa.table({"prompt": column}), path)
    before = pa.total_allocated_bytes()
    seen = Counter[str]()
    peak = 0
    for _, record in READERS["parquet"](path, 1_000_000):
        seen[record.reason if isinstance(record, Broken) else "kept"] += 1
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert seen == {"row_too_large": 5_000, "kept": 1}
    assert peak < 100_000_000


def test_parquet_with_lists_of_messages(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read(path) == rows


def test_parquet_with_text_that_is_not_utf8(tmp_path: Path) -> None:
    wrong = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"\xffok"))
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": wrong}), path)
    records = read(path)
    assert records[1] == {"prompt": "ok"}
    assert broken(records) == {"bad_text": 1}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("rows.zip", b"PK\x03\x04" + b"\0" * 100, "compressed"),
        ("rows.jsonl.gz", b"\x1f\x8b" + b"\0" * 100, "compressed"),
        ("rows.jsonl", '{"a": 1}'.encode("utf-16"), "UTF-16"),
        ("rows.json", b'[{"prompt": "a"}]', "JSON array"),
        ("rows.bin", b"\x7fELF", "unknown"),
        ("rows.parquet", b"PAR1 and then nothing of the kind", "Parquet"),
        ("rows.csv", b"", "columns"),
        ("rows.csv", b"prompt\na\n", "columns"),
        ("rows.csv", b"prompt,prompt\na,b\n", "columns"),
    ],
)
def test_a_file_of_another_kind_says_what_to_do(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=told) as error:
        read(path)
    assert error.value.next_step
