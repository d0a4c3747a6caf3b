"""Kinds of files, read row by row in bounded memory. A new kind is one file and one line here.

A reader yields `(number, record)`, numbers counting from 1, or `(number, Broken)` for a row that cannot be read; it
raises `Unreadable` when the file as a whole is not what it claims to be.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from services.data.readers import csv, jsonl, parquet
from services.data.readers.lines import Broken, Unreadable
from services.data.rows import Record

Reader = Callable[[Path, int], Iterator[tuple[int, Record | Broken]]]
"""(path, largest row in bytes) -> numbered rows."""

READERS: dict[str, Reader] = {"jsonl": jsonl.read, "csv": csv.read, "parquet": parquet.read}


def kind_of(path: Path, filename: str) -> str:
    """The key of READERS for a file, by its content first and its name second.

    Raises:
        Unreadable: it is none of them; the message says what to do.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd")):
        raise Unreadable("it is compressed", "Unpack it and upload the file inside.")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable("it is UTF-16", "Save it as UTF-8.")
    if filename.lower().endswith((".csv", ".tsv")):
        return "csv"
    if start.startswith(b"["):
        raise Unreadable(
            "it is one JSON array", "Write one JSON object per line: jq -c '.[]' FILE > FILE.jsonl"
        )
    if start.startswith(b"{") or filename.lower().endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    raise Unreadable("its kind is unknown", f"Upload one of: {', '.join(READERS)}.")
