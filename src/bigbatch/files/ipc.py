"""What an Arrow IPC file says of its own size, read before Arrow unpacks any of it.

Both forms, files and streams, are messages: a FlatBuffers table with the lengths of all arrays, and a body of buffers,
each of which, where packed, begins with its unpacked length. That is everything that is needed here.
(https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from bigbatch.files.contents import check_rows, most_bytes, too_much
from bigbatch.files.expanded import check_expanded
from bigbatch.stored import Damaged, check_plain

_END = b"ARROW1"
"""Of the file form."""
_DICTIONARY, _RECORDS = 2, 3
"""Kinds of message that hold arrays."""


def read_arrow(path: Path) -> pa.Table:
    """Both forms of Arrow IPC: files, and streams as `datasets` writes them.

    Raises:
        Damaged: not a plain file, or it claims or unpacks to more than the rule allows.
        OSError, pa.ArrowException: it cannot be read.
    """
    size_bytes = check_plain(path)
    with pa.memory_map(str(path)) as source:
        data = memoryview(source.read_buffer())
        is_file = bytes(data[-len(_END) :]) == _END
        try:
            _check(data, is_file, size_bytes)
        except (struct.error, ValueError) as error:
            if isinstance(error, Damaged):
                raise
            raise Damaged(
                "cannot be read: is no Arrow file, or a damaged one: its messages lead outside of it"
            ) from None
        source.seek(0)
        table = (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).read_all()
    table.validate(full=True)  # Arrow believes offsets as they stand in the file
    check_expanded(table, size_bytes)
    return table


def _check(data: memoryview, is_file: bool, size_bytes: int) -> None:
    most = most_bytes(size_bytes)
    rows = unpacked_bytes = 0
    for header, body in _headers(data, is_file):
        rows += _longest(data, header)
        unpacked_bytes += _unpacked(data, header, body)
        check_rows(rows, size_bytes)
        if unpacked_bytes > most:
            raise Damaged(too_much(size_bytes, most))


def _headers(data: memoryview, is_file: bool) -> Iterator[tuple[int, int]]:
    """Where the record batches of all messages lie, and their bodies."""
    for message, body in _in_file(data) if is_file else _in_stream(data):
        kind_at, header_at = _field(data, message, 1), _field(data, message, 2)
        kind = data[kind_at] if kind_at else 0
        if kind in (_DICTIONARY, _RECORDS) and header_at:
            header = _follow(data, header_at)
            if kind == _DICTIONARY:
                inner = _field(data, header, 1)
                if not inner:
                    continue
                header = _follow(data, inner)
            yield header, body


def _in_file(data: memoryview) -> Iterator[tuple[int, int]]:
    """Messages by the footer at the end."""
    end = len(data) - len(_END) - 4
    footer = _follow(data, end - _number("<i", data, end))
    for field in (2, 3):
        for at, message_bytes in _structs(data, footer, field, np.dtype("<i8,<i4,<i4,<i8"), "f0", "f1"):
            yield _message(data, at)[0], at + message_bytes


def _in_stream(data: memoryview) -> Iterator[tuple[int, int]]:
    """Messages one behind the other."""
    at = 0
    while at + 4 <= len(data):
        message, body = _message(data, at)
        if not message:
            return
        yield message, body
        length = _field(data, message, 3)
        body_bytes = _number("<q", data, length) if length else 0
        if body_bytes < 0:
            raise Damaged("cannot be read: is a damaged Arrow file: a message of a negative length")
        at = body + body_bytes


def _message(data: memoryview, at: int) -> tuple[int, int]:
    """The table of a message, 0 at the end of a stream; and what comes behind it."""
    length = _number("<i", data, at)
    start = at + 4
    if length == -1:  # since 2019 a mark comes first
        length, start = _number("<i", data, start), start + 4
    if length <= 0:
        return 0, start
    return _follow(data, start), start + length


def _longest(data: memoryview, batch: int) -> int:
    """Length of the longest array of a record batch."""
    rows = _field(data, batch, 0)
    lengths = [length for (length,) in _structs(data, batch, 1, np.dtype("<i8,<i8"), "f0")]
    return max([_number("<q", data, rows) if rows else 0, *lengths])


def _unpacked(data: memoryview, batch: int, body: int) -> int:
    """Bytes of its buffers once unpacked; 0 where they are not packed."""
    if not _field(data, batch, 3):
        return 0
    total = 0
    for at, length in _structs(data, batch, 2, np.dtype("<i8,<i8"), "f0", "f1"):
        total += max(0, _number("<q", data, body + at)) if length else 0
    return total


def _structs(
    data: memoryview, table: int, field: int, kind: np.dtype, *names: str
) -> Iterator[tuple[int, ...]]:
    """Some members of each struct in a vector of them."""
    found = _field(data, table, field)
    if found:
        vector = _follow(data, found)
        structs = np.frombuffer(data, kind, _number("<I", data, vector), vector + 4)
        yield from zip(*(structs[name].tolist() for name in names), strict=True)


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a field of a table lies; 0: it has none."""
    known = table - _number("<i", data, table)
    place = 4 + 2 * number
    offset = _number("<H", data, known + place) if place < _number("<H", data, known) else 0
    return table + offset if offset else 0


def _follow(data: memoryview, at: int) -> int:
    return at + _number("<I", data, at)


def _number(kind: str, data: memoryview, at: int) -> int:
    if at < 0:  # Python counts those from the end
        raise Damaged("cannot be read: is a damaged Arrow file: its messages lead outside of it")
    return struct.unpack_from(kind, data, at)[0]
