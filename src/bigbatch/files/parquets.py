"""Columns of Parquet files, within the rule of `contents`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from bigbatch.files.contents import check_rows, most_bytes, too_much
from bigbatch.files.expanded import check_expanded
from bigbatch.stored import Damaged, check_plain

_BATCH_ROWS, _FEW_ROWS = 2**14, 2**6
_FIXED_BYTES = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


def check_parquet(path: Path) -> tuple[pa.Schema, int]:
    """Columns and number of rows of a Parquet file, as far as a file of its size can be believed.

    Raises:
        Damaged: not a plain file, or numbers of rows that cannot be.
        OSError, pa.ArrowException: it cannot be read.
    """
    size_bytes = check_plain(path)
    with parquet.ParquetFile(path) as file:
        found, schema = file.metadata, file.schema_arrow
    rows = [found.row_group(number).num_rows for number in range(found.num_row_groups)]
    if found.num_rows != sum(rows) or min(rows, default=0) < 0:
        raise Damaged(f"says that it has {found.num_rows:,} rows, and its row groups {sum(rows):,}")
    check_rows(found.num_rows, size_bytes)
    return schema, found.num_rows


def read_parquet(path: Path, columns: list[str]) -> pa.Table:
    """Columns of a Parquet file, a few rows at a time.

    Raises:
        Damaged: they are larger than the rule allows, or have another number of rows than the file says.
        OSError, pa.ArrowException: they cannot be read.
    """
    size_bytes = check_plain(path)
    with parquet.ParquetFile(path) as file:
        expected, schema = file.metadata.num_rows, file.schema_arrow
        shared = _check_claims(file.metadata, columns, size_bytes)
    batch_rows, held_bytes = _BATCH_ROWS, 0
    if shared:  # read first as it is stored: one batch of written-out texts alone can be too much
        try:
            for batch in _batches(path, columns, batch_rows, shared):
                held_bytes = check_expanded(batch, size_bytes, held_bytes)
        except pa.ArrowNotImplementedError:  # texts in lists, some of them stored in another way
            batch_rows = _FEW_ROWS
    batches, held_bytes = [], 0
    for batch in _batches(path, columns, batch_rows):
        batches.append(batch)
        held_bytes = check_expanded(batch, size_bytes, held_bytes)
    table = (
        pa.Table.from_batches(batches, batches[0].schema) if batches else schema.empty_table().select(columns)
    )
    if columns and table.num_rows != expected:
        raise Damaged(f"says that it has {expected:,} rows, and holds {table.num_rows:,}")
    return table


def _batches(
    path: Path, columns: list[str], batch_rows: int, shared: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """A few rows at a time, none from two row groups: Arrow cannot join lists of texts that were shared in each.

    Args:
        path: of the file.
        columns: the names of those that are read.
        batch_rows: at most in a batch.
        shared: paths of columns that are left as they are stored, every text once.
    """
    with parquet.ParquetFile(path, read_dictionary=list(shared)) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(batch_size=batch_rows, row_groups=[group], columns=columns)


def _check_claims(metadata: parquet.FileMetaData, columns: list[str], size_bytes: int) -> list[str]:
    """Hold what the file says of its columns against the rule.

    Returns: Paths of columns of texts whose rows could share so much that they have to be looked at.

    Raises:
        Damaged: more than the rule allows.
    """
    most, total_bytes, shared = most_bytes(size_bytes), 0, dict[str, None]()
    for chunk in _chunks(metadata, columns):
        total_bytes += max(
            chunk.total_uncompressed_size, _FIXED_BYTES.get(chunk.physical_type, 0) * chunk.num_values
        )
        if chunk.physical_type == "BYTE_ARRAY" and chunk.num_values * chunk.total_uncompressed_size > most:
            shared[chunk.path_in_schema] = None
    if total_bytes > most:
        raise Damaged(too_much(size_bytes, most))
    return list(shared)


def _chunks(metadata: parquet.FileMetaData, columns: list[str]) -> Iterator[parquet.ColumnChunkMetaData]:
    """Of all row groups, what belongs to these columns."""
    paths = [f"{metadata.schema.column(leaf).path}." for leaf in range(metadata.num_columns)]
    asked = tuple(f"{name}." for name in columns)
    leaves = [leaf for leaf, path in enumerate(paths) if path.startswith(asked)]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        yield from map(group.column, leaves)
