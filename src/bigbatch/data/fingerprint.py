"""The content of a table as one hash: enters the run's identity and the token cache's key."""

from __future__ import annotations

import hashlib

import pyarrow as pa

_CHUNK_ROWS = 65536


def content_digest(rows: pa.Table) -> str:
    """sha256 (hex) of column names, types, values and row order; not of file names, chunks or formats."""
    digest = hashlib.sha256()
    for name in sorted(rows.column_names):
        column = rows.column(name)
        if pa.types.is_struct(column.type):  # an image is what its file holds, wherever that lies
            column = column.combine_chunks().field("sha256") if len(column) else column
        digest.update(f"{name}:{_plain_type(column.type)}:{len(column)}\n".encode())
        for first in range(0, len(column), _CHUNK_ROWS):
            _add(digest, column.slice(first, _CHUNK_ROWS))
    return digest.hexdigest()


def _plain_type(kind: pa.DataType) -> str:
    """Large and small strings hold the same text, and so do lists of either kind."""
    return str(kind).replace("large_", "")


def _add(digest: hashlib._Hash, column: pa.ChunkedArray) -> None:
    """Values as JSON-like text, since equal values can lie in different buffers (offsets, bitmaps, slices)."""
    for value in column.to_pylist():
        text = value if isinstance(value, str) else repr(value)
        digest.update(f"{type(value).__name__[0]}{len(text)}:{text}".encode("utf-8", "surrogatepass"))
