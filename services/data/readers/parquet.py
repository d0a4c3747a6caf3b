"""Parquet, batch by batch; no row is unpacked before its size is known."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.data.readers.lines import Broken, Unreadable
from services.data.rows import Record

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 256
BATCH_BYTES = 1 << 26
MAX_GROUP_BYTES = 1 << 29
"""Largest row group, unpacked."""


def read(path: Path, limit: int) -> Iterator[tuple[int, Record | Broken]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            texts = _texts(file)
        # Dictionaries stay packed: a million references to one large text would otherwise fill the memory.
        with pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                for record in _records(batch, limit):
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(
            f"it cannot be read as Parquet after row {number}", "Write the file again."
        ) from error


def _texts(file: "pq.ParquetFile") -> list[str]:
    """Paths of the text leaves. Raises Unreadable for a row group that would not fit in memory."""
    groups = [file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups)]
    if max(groups, default=0) > MAX_GROUP_BYTES:
        raise Unreadable("a row group is larger than 512 MiB", "Write it with smaller row groups.")
    leaves = [file.schema.column(index) for index in range(len(file.schema))]
    return [
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type == "STRING"
    ]


def _records(batch: "pa.RecordBatch", limit: int) -> Iterator[Record | Broken]:
    if _size(batch.columns) <= BATCH_BYTES:
        with suppress(UnicodeDecodeError):
            yield from batch.to_pylist()
            return
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        if _size(row.columns) > limit:
            yield Broken("row_too_large", b"")
            continue
        try:
            yield from row.to_pylist()
        except UnicodeDecodeError:
            yield Broken("bad_text", b"")


def _size(columns: "list[pa.Array[Any]]") -> int:
    """Bytes of these columns once unpacked."""
    import pyarrow as pa
    import pyarrow.compute as pc

    total = 0
    for column in columns:
        if pa.types.is_dictionary(column.type):
            total += pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
        elif pa.types.is_struct(column.type):
            total += _size(column.flatten())
        elif pa.types.is_nested(column.type):
            total += _size([column.flatten()])
        else:
            total += column.nbytes
    return total
