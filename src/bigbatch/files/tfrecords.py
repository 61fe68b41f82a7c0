"""TFRecord files of tf.train.Example, read and written without TensorFlow.

A record is its length (uint64), a checksum of that, its bytes, a checksum of these; all little-endian, checksums are
CRC-32C, rotated and offset. An Example is a map from names to lists of bytes, of float32 or of int64. Formats:
tensorflow.org/tutorials/load_data/tfrecord, protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import contextlib
import gzip
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from typing import BinaryIO, NamedTuple

import numpy as np

from bigbatch.errors import Problem
from bigbatch.files.contents import unpacked
from bigbatch.files.problems import data_error, one_error
from bigbatch.files.raw import Column, Raw
from bigbatch.stored import Damaged

Values = list[bytes] | list[float] | list[int]
"""One feature of one Example."""
_HEAD_BYTES, _TAIL_BYTES = 12, 4
_MASK = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
"""Kinds of protobuf fields."""
_BYTES, _FLOATS, _INTEGERS = 1, 2, 3
"""Numbers of a Feature's fields."""
_GZIP, _ZLIB = b"\x1f\x8b", b"\x78"
_AT_ONCE_BYTES = 2**24


def read_tfrecord(name: str, content: bytes) -> Raw:
    """Examples as rows, a column for each feature; records are numbered from 1.

    A feature that has at most one value in every record is that value, else a list. Bytes are texts where those of all
    records are UTF-8. A record that lacks a feature, or has no value of it, has none there.

    Args:
        name: of the file, for messages.
        content: the file; packed with gzip or zlib, as TensorFlow's options have it, is taken too.

    Raises:
        DataError: a record that is cut off or damaged, or is no Example.
    """
    rows: list[Mapping[str, Values]] = []
    problems: list[Problem] = []
    for number, record in enumerate(_records(name, _plain(name, content)), start=1):
        try:
            rows.append(example_of(record))
        except ValueError as error:
            problems.append(Problem(where=f"{name}:{number}", what=str(error)))
    if problems:
        raise data_error(problems)
    names = tuple(sorted({feature for row in rows for feature in row}))
    single = {feature: all(len(row.get(feature, ())) <= 1 for row in rows) for feature in names}

    def load(wanted: Sequence[str]) -> Mapping[str, Column]:
        return {feature: _column([row.get(feature) for row in rows], single[feature]) for feature in wanted}

    return Raw(
        name=name,
        columns=names,
        rows=len(rows),
        load=load,
        lacks=lambda feature: [number for number, row in enumerate(rows) if feature not in row],
    )


def write_tfrecord(file: BinaryIO, rows: Iterator[bytes], *, packed: bool = False) -> int:
    """Write records; their number.

    Args:
        file: open for writing.
        rows: each as `example_bytes` has it.
        packed: with gzip.
    """
    count = 0
    with gzip.GzipFile("", "wb", fileobj=file, mtime=0) if packed else nullcontext(file) as to:
        for row in rows:
            head = struct.pack("<Q", len(row))
            sums = checksums([head, row])
            to.write(head + struct.pack("<I", sums[0]) + row + struct.pack("<I", sums[1]))
            count += 1
    return count


# ---------------------------------------------------------------- records


def _plain(name: str, content: bytes) -> bytes:
    """The records, unpacked where the first bytes say that they are packed; a length that begins so is none."""
    if content[:2] == _GZIP:
        codec = "gzip"
    elif content[:1] == _ZLIB and _head_fault(content[:_HEAD_BYTES]):
        codec = "zlib"
    else:
        return content
    try:
        return unpacked(content, codec)
    except Damaged as error:
        raise one_error(name, "", str(error)) from None


def _head_fault(head: bytes) -> str | None:
    """What is wrong with a record's length and its checksum."""
    if len(head) < _HEAD_BYTES:
        return "is cut off within its length"
    if checksums([head[:8]])[0] != struct.unpack("<I", head[8:])[0]:
        return "has a length that its checksum denies; the file is damaged, or is no TFRecord"
    return None


def _records(name: str, content: bytes) -> Iterator[bytes]:
    """Each record, its checksum compared; many at a time, since that is much faster.

    Raises:
        DataError: with the record's number and place.
    """
    place, number, held_bytes = 0, 0, 0
    held: list[tuple[bytes, int]] = []
    while place < len(content):
        head = content[place : place + _HEAD_BYTES]
        fault = _head_fault(head)
        length = 0 if fault else struct.unpack("<Q", head[:8])[0]
        end = place + _HEAD_BYTES + length + _TAIL_BYTES
        if fault is None and end > len(content):
            fault = f"says {length:,} bytes, and {max(0, len(content) - place - _HEAD_BYTES - _TAIL_BYTES):,} are there"
        if fault is not None:
            yield from _checked(name, held, number)
            raise one_error(f"{name}:{number + len(held) + 1}", "", f"the record at byte {place:,} {fault}")
        data = content[place + _HEAD_BYTES : end - _TAIL_BYTES]
        held.append((data, struct.unpack("<I", content[end - _TAIL_BYTES : end])[0]))
        held_bytes += length
        place = end
        if held_bytes > _AT_ONCE_BYTES:
            yield from _checked(name, held, number)
            number, held, held_bytes = number + len(held), [], 0
    yield from _checked(name, held, number)


def _checked(name: str, held: Sequence[tuple[bytes, int]], before: int) -> Iterator[bytes]:
    sums = checksums([data for data, _ in held])
    for at, ((data, written), found) in enumerate(zip(held, sums, strict=True), start=before + 1):
        if written != found:
            raise one_error(
                f"{name}:{at}", "", "the record's bytes differ from their checksum; it is damaged"
            )
        yield data


def checksums(texts: Sequence[bytes]) -> list[int]:
    """The masked CRC-32C of each, all of them a byte at a time side by side.

    Args:
        texts: of any lengths.
    """
    if not texts:
        return []
    order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
    lengths = np.array([len(texts[at]) for at in order])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    flat = np.frombuffer(b"".join(texts[at] for at in order), np.uint8)
    sums, table = np.full(len(texts), 0xFFFFFFFF, np.uint32), _table()
    alive = np.searchsorted(-lengths, -np.arange(lengths[0]), side="left")  # texts longer than each place
    for place, count in enumerate(alive.tolist()):
        low = (sums[:count] ^ flat[starts[:count] + place]) & 0xFF
        sums[:count] = (sums[:count] >> 8) ^ table[low]
    found = [0] * len(texts)
    for at, value in zip(order, (sums ^ 0xFFFFFFFF).tolist(), strict=True):
        found[at] = ((value >> 15 | value << 17) + _MASK) & 0xFFFFFFFF
    return found


@cache
def _table() -> np.ndarray:
    """(256,) uint32: CRC-32C of each byte."""
    sums = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        sums = np.where(sums & 1, (sums >> 1) ^ np.uint32(_POLYNOMIAL), sums >> 1).astype(np.uint32)
    return sums


# ---------------------------------------------------------------- Examples


class _Field(NamedTuple):
    number: int
    kind: int
    value: int
    """Of a varint."""
    data: bytes
    """Of all other kinds."""


def example_of(record: bytes) -> dict[str, Values]:
    """The features of a serialised tf.train.Example.

    Raises:
        ValueError: it is none.
    """
    found: dict[str, Values] = {}
    for field in _fields(record):
        if field.number == 2 and field.kind == _LENGTH:
            raise ValueError(
                "expected a tf.train.Example, found a SequenceExample; write its context and lists apart"
            )
        if field.number != 1 or field.kind != _LENGTH:
            raise ValueError(
                f"expected a tf.train.Example, found a field {field.number} of kind {field.kind}"
            )
        for entry in _fields(field.data):
            parts = {part.number: part.data for part in _fields(entry.data)}
            try:
                found[parts.get(1, b"").decode()] = _feature(parts.get(2, b""))
            except UnicodeDecodeError:
                raise ValueError(f"the name of a feature is no UTF-8: {parts.get(1, b'')!r}") from None
    return found


def example_bytes(features: Mapping[str, Values]) -> bytes:
    """A serialised tf.train.Example; features in the order of their names.

    Args:
        features: each all bytes, all floats (kept as float32) or all integers (int64).

    Raises:
        ValueError: an integer that is none of 64 bits.
    """
    entries = []
    for name in sorted(features):
        values = features[name]
        kind = _BYTES if not values or isinstance(values[0], bytes) else _FLOATS
        kind = _INTEGERS if values and isinstance(values[0], int) else kind
        if kind == _BYTES:
            body = b"".join(_piece(1, value) for value in values if isinstance(value, bytes))
        elif kind == _FLOATS:
            body = _piece(1, np.array(values, "<f4").tobytes())
        else:
            body = _piece(1, b"".join(map(_varint, map(int, values))))
        entries.append(_piece(1, _piece(1, name.encode()) + _piece(2, _piece(kind, body))))
    return _piece(1, b"".join(entries))


def _feature(data: bytes) -> Values:
    found: Values = []
    for field in _fields(data):
        if field.number == _BYTES:
            found = [part.data for part in _fields(field.data)]
        elif field.number == _FLOATS:
            floats = b"".join(part.data for part in _fields(field.data))
            if len(floats) % 4:
                raise ValueError("a list of floats is cut off")
            found = np.frombuffer(floats, "<f4").tolist()
        elif field.number == _INTEGERS:
            found = [value for part in _fields(field.data) for value in _integers(part)]
        else:
            raise ValueError(f"a feature of kind {field.number}; there are bytes, floats and integers")
    return found


def _integers(part: _Field) -> Iterator[int]:
    """Of a list, packed or one by one; signed."""
    values, place = ([part.value], 0) if part.kind == _VARINT else ([], 0)
    while place < len(part.data):
        value, place = _read_varint(part.data, place)
        values.append(value)
    return (value - 2**64 if value >= 2**63 else value for value in values)


def _fields(data: bytes) -> Iterator[_Field]:
    """The fields of a protobuf message.

    Raises:
        ValueError: it is cut off, or is no message.
    """
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _read_varint(data, place)
            yield _Field(number, kind, value, b"")
            continue
        if kind == _LENGTH:
            length, place = _read_varint(data, place)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"expected a tf.train.Example; found a field of unknown kind {kind}")
        if length > len(data) - place:
            raise ValueError(
                f"expected a tf.train.Example; a field says {length:,} bytes, {len(data) - place:,} are there"
            )
        yield _Field(number, kind, 0, data[place : place + length])
        place += length


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("expected a tf.train.Example; a number is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), place
    raise ValueError("expected a tf.train.Example; a number of more than 64 bits")


def _varint(value: int) -> bytes:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{value} is no integer of 64 bits")
    value &= 2**64 - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _piece(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH]) + _varint(len(data)) + data


# ---------------------------------------------------------------- columns


def _column(values: Sequence[Values | None], single: bool) -> Column:
    """A feature of all records: values or lists of them; bytes as texts where all are."""
    lists: list[list[bytes | str | float | int] | None] = [
        None if found is None else list(found) for found in values
    ]
    with contextlib.suppress(UnicodeDecodeError):
        lists = [
            None if found is None else [one.decode() if isinstance(one, bytes) else one for one in found]
            for found in lists
        ]
    return [(found[0] if found else None) for found in lists] if single else lists
