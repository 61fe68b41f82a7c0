"""Rows of any file that is read here, written as another kind of file: nothing is renamed, nothing is left out."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from bigbatch.errors import DiskError, Problem, UsageError
from bigbatch.files.kinds import find_files, read_file
from bigbatch.files.plain import is_missing, plain
from bigbatch.files.problems import data_error, listed, one_error
from bigbatch.files.raw import Column, Raw
from bigbatch.files.tfrecords import Values, example_bytes, write_tfrecord
from bigbatch.frames import said_plainly
from bigbatch.protocols import Row
from bigbatch.written import beside, open_new, publish

Say = Callable[[str], object]


def say_nothing(text: str) -> None:
    """For callers who want none of what is told."""


@said_plainly
def convert(
    source: str | Path,
    out: str | Path,
    *,
    encoding: str = "utf-8",
    quoting: str = "minimal",
    say: Say = say_nothing,
) -> int:
    """Write a file's rows as the kind that the other's name says; their number.

    Args:
        source: a file, a folder, a pattern of files that have the same columns, or an address.
        out: `.tfrecord`, `.tfrecord.gz`, `.parquet`, `.jsonl` or `.csv`; complete or absent, and never written over.
        encoding: of text files that are read.
        quoting: of CSV and TSV that are read.
        say: told what is fetched, and what is not kept exactly.

    Raises:
        UsageError: the file is there, or of another kind.
        DataError: the rows cannot be read, or a value has no form in such a file; with its place.
        DiskError: the file cannot be written.
    """
    target = Path(out)
    check_new(target)
    raws = [read_file(name, path, encoding, quoting) for name, path in find_files(str(source), Path(), say)]
    write_rows(target, raws, say)
    return sum(raw.rows for raw in raws)


def check_new(out: Path) -> str:
    """The kind of file that a name stands for.

    Raises:
        UsageError: none that is written here, or there is something of this name.
    """
    kind = next((kind for kind in _WRITERS if out.name.lower().endswith(kind)), None)
    if kind is None:
        raise UsageError(f"{out}: cannot write such a file; expected {', '.join(_WRITERS)}")
    if os.path.lexists(out):
        raise _exists(out)
    return kind


def write_rows(out: Path, raws: Sequence[Raw], say: Say, kept: Sequence[np.ndarray] | None = None) -> None:
    """Write the rows of files that have the same columns.

    Args:
        out: as `convert` has it.
        raws: the files.
        say: told what is not kept exactly.
        kept: of each file (rows,) bool, which of its rows; None: all.

    Raises:
        UsageError, DataError, DiskError: as `convert` has them.
    """
    kind, temporary = check_new(out), beside(out)
    _same_columns(raws)
    if kept is not None:
        raws = [_only(raw, rows) for raw, rows in zip(raws, kept, strict=True)]
    try:
        with open_new(temporary) as file:
            _WRITERS[kind](file, raws, say)
        publish(temporary, out)
    except FileExistsError:
        raise _exists(out) from None
    except OSError as error:
        raise DiskError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _exists(out: Path) -> UsageError:
    return UsageError(f"{out} exists and is not overwritten; remove it or choose another name")


def _only(raw: Raw, kept: np.ndarray) -> Raw:
    """Some of its rows."""

    def load(names: Sequence[str]) -> Mapping[str, Column]:
        return {
            name: list(itertools.compress(column, kept))
            if isinstance(column, list)
            else column.filter(pa.array(kept))
            for name, column in raw.load(names).items()
        }

    return replace(raw, rows=int(kept.sum()), numbers=raw.row_numbers[kept], load=load)


def _same_columns(raws: Sequence[Raw]) -> None:
    for raw in raws:
        if set(raw.columns) != set(raws[0].columns):
            what = f"has the columns {listed(raw.columns)}, and {raws[0].name} {listed(raws[0].columns)}"
            raise one_error(raw.name, "", f"{what}; convert them one by one")


def _rows(raw: Raw) -> Iterator[tuple[str, Row]]:
    """(place, values by column); missing ones are None."""
    columns = {name: values_of(column) for name, column in raw.load(raw.columns).items()}
    for row in range(raw.rows):
        found = {name: plain(values[row]) for name, values in columns.items()}
        yield raw.where(row), {name: None if _is_none(value) else value for name, value in found.items()}


def values_of(column: Column) -> list[object]:
    """Of a column, as Python has them."""
    return list(column) if isinstance(column, list) else column.to_pylist()


def _is_none(value: object) -> bool:
    return not isinstance(value, (list, dict, tuple, np.ndarray)) and is_missing(value)


# ---------------------------------------------------------------- TFRecord


def _tfrecord(file: BinaryIO, raws: Sequence[Raw], say: Say, *, packed: bool = False) -> None:
    rounded: dict[str, str] = {}

    def rows() -> Iterator[bytes]:
        for raw in raws:
            for where, row in _rows(raw):
                features: dict[str, Values] = {}
                for name, value in row.items():
                    if value is not None:
                        features[name] = _feature(where, name, value, rounded)
                yield example_bytes(features)

    write_tfrecord(file, rows(), packed=packed)
    for name, where in rounded.items():
        say(f"{name}: TFRecord has floats of 32 bits, and not all of these are; the first at {where}")


def _feature(where: str, name: str, value: object, rounded: dict[str, str]) -> Values:
    """One value as a feature.

    Raises:
        DataError: it is neither text, bytes, a number nor a list of one of them.
    """
    values = [plain(one) for one in value] if isinstance(value, (list, tuple)) else [value]
    if all(isinstance(one, (str, bytes)) for one in values):
        return [
            one.encode() if isinstance(one, str) else one for one in values if isinstance(one, (str, bytes))
        ]
    if all(isinstance(one, int) and -(2**63) <= one < 2**63 for one in values):
        return [int(one) for one in values if isinstance(one, int)]
    if all(isinstance(one, (int, float)) for one in values):
        floats = [float(one) for one in values if isinstance(one, (int, float))]
        if name not in rounded and any(_rounds(one) for one in floats):
            rounded[name] = where
        return floats
    what = f"column {name!r}: TFRecord holds texts, bytes, numbers and lists of one of them, not {_kinds(values)}"
    raise data_error([Problem(where=where, what=f"{what}; .jsonl and .parquet hold it")])


def _rounds(value: float) -> bool:
    if math.isnan(value) or math.isinf(value):
        return False
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0] != value
    except OverflowError:
        return True


def _kinds(values: Sequence[object]) -> str:
    return " and ".join(sorted({type(value).__name__ for value in values}))


# ---------------------------------------------------------------- the other kinds


def _parquet(file: BinaryIO, raws: Sequence[Raw], say: Say) -> None:
    del say
    try:
        tables = [pa.table(dict(raw.load(raw.columns))) for raw in raws]
        table = pa.concat_tables(
            [each.select(tables[0].column_names) for each in tables], promote_options="default"
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise one_error(
            raws[0].name, "", f"a column has values of different types: {error}; .jsonl holds them"
        ) from None
    parquet.write_table(table, file)


def _json_lines(file: BinaryIO, raws: Sequence[Raw], say: Say) -> None:
    del say
    for raw in raws:
        for where, row in _rows(raw):
            try:
                line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
            except (TypeError, ValueError) as error:
                what = f"JSON cannot hold it: {error}; .parquet and .tfrecord hold bytes"
                raise data_error([Problem(where=where, what=what)]) from None
            file.write(line)


def _csv(file: BinaryIO, raws: Sequence[Raw], say: Say) -> None:
    del say
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(raws[0].columns)
    for raw in raws:
        for where, row in _rows(raw):
            cells = [row[name] for name in raws[0].columns]
            bad = [cell for cell in cells if isinstance(cell, (list, dict, tuple, bytes))]
            if bad:
                what = f"CSV holds no {type(bad[0]).__name__}; .jsonl, .parquet and .tfrecord do"
                raise data_error([Problem(where=where, what=what)])
            lines.writerow(["" if cell is None else cell for cell in cells])
    text.detach()


_WRITERS: dict[str, Callable[[BinaryIO, Sequence[Raw], Say], None]] = {
    ".tfrecord": _tfrecord,
    ".tfrecord.gz": partial(_tfrecord, packed=True),
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".csv": _csv,
}
