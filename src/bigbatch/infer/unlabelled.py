"""Rows to predict, of any file or object, through the readers of training: one row out for each row in, in order.

What is refused: rows that lack the text, and what training would refuse. An empty text, or an empty cell, is a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bigbatch.data.columns import ID, guess_column, pick_columns
from bigbatch.data.conversations import with_conversations
from bigbatch.data.objects import column_values, is_table, read_object
from bigbatch.data.tables import TOKENISED_COLUMNS
from bigbatch.data.talks import talk_row, with_talks
from bigbatch.data.token_rows import role_values
from bigbatch.errors import Problem, UsageError
from bigbatch.files.delimited import delimiter_of
from bigbatch.files.kinds import find_files, read_content, read_file
from bigbatch.files.plain import is_missing, plain, text_of
from bigbatch.files.problems import data_error, listed, nearest, one_error
from bigbatch.files.raw import Raw
from bigbatch.protocols import Role, Row
from bigbatch.turns import KIND, are_columns, conversation_row

PlacedRow = tuple[str, Row]
"""`new.csv:12` (the header is row 1), and role -> value."""
KEPT = "input"
"""In a row: the columns that go through untouched, name -> value. No role has this name."""
_CHUNK_ROWS = 4096
_EXPECTED = "expected texts, rows as dictionaries, pandas, datasets.Dataset, an Arrow table or a dictionary of columns"


def read_role(roles: Mapping[str, Role]) -> str:
    """The role that a bare text stands for: the first one that the model reads."""
    return next((name for name, role in roles.items() if role.is_read), "text")


def rows_of_file(
    path: Path | str,
    *,
    roles: Mapping[str, Role],
    columns: Mapping[str, str],
    encoding: str,
    quoting: str,
    keep: Sequence[str] = (),
    say: Callable[[str], object] | None = None,
) -> Iterator[PlacedRow]:
    """Rows of a file (or a pattern, a folder of texts, an address), as training reads it.

    Args:
        path: as typed.
        roles: of the task.
        columns: role -> column, as the recipe has them.
        encoding: of text.
        quoting: of CSV and TSV.
        keep: columns copied beside the predictions.
        say: told what is fetched.

    Raises:
        DataError: no such file, malformed rows, no column for the text or for what is kept.
    """
    for name, found in find_files(str(path), Path(), say):
        yield from placed(read_file(name, found, encoding, quoting, learnt=False), roles, columns, keep)


def rows_of_stream(
    name: str,
    content: bytes,
    *,
    roles: Mapping[str, Role],
    columns: Mapping[str, str],
    encoding: str,
    quoting: str,
    keep: Sequence[str] = (),
) -> Iterator[PlacedRow]:
    """Rows of standard input: JSON where it starts so, a table where its first line names the text, else texts.

    Args:
        name: of the stream, for messages.
        content: all of it.
        roles, columns, encoding, quoting, keep: as of `rows_of_file`.

    Raises:
        DataError: malformed rows.
    """
    suffix = _sniffed(content, roles, columns)
    raw = (
        read_content(name, content, suffix, encoding, quoting, learnt=False)
        if content.strip() or suffix == ".txt"
        else None
    )
    return iter(()) if raw is None else placed(raw, roles, columns, keep)


def _sniffed(content: bytes, roles: Mapping[str, Role], columns: Mapping[str, str]) -> str:
    """What the name of such a file would end in."""
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"{") or (start.startswith(b"[") and _is_array(start)):
        return ".jsonl"
    first = start.splitlines()[0] if start else b""
    role = read_role(roles)
    for suffix, delimiter in ((".csv", delimiter_of(first, False)), (".tsv", b"\t")):
        cells = [cell.strip().strip(b'"').decode("utf-8", "replace") for cell in first.split(delimiter)]
        if columns.get(role, role) in cells:
            return suffix
        # A header by the usual names has to have several: a line of text may well be the word "review".
        if role not in columns and len(cells) > 1 and guess_column(role, roles[role].kind, cells):
            rest = start.splitlines()[1:50]
            if rest and all(line.count(delimiter) >= len(cells) - 1 for line in rest if line.strip()):
                return suffix
    return ".txt"


def _is_array(start: bytes) -> bool:
    """Whether text that starts with a bracket is JSON: texts may, too."""
    try:
        return isinstance(json.loads(start), list)
    except (ValueError, RecursionError):
        return False


def placed(
    raw: Raw, roles: Mapping[str, Role], columns: Mapping[str, str], keep: Sequence[str] = ()
) -> Iterator[PlacedRow]:
    """Rows of a source with a value for each role, all checked before the first one comes; what is kept is `KEPT`.

    Args:
        raw: columns and lines of a source.
        roles: of the task.
        columns: role -> column, as the recipe has them.
        keep: columns copied beside the predictions.

    Raises:
        DataError: no column for the text or for what is kept, values that cannot be read, rows that lack the text.
    """
    if not raw.columns:
        return iter(())
    # Several names may stand between commas, unless a column is called so.
    keep = [
        name
        for given in keep
        for name in ([given] if given in raw.columns else map(str.strip, given.split(",")))
    ]
    absent = [name for name in keep if name not in raw.columns]
    if absent:
        what = f"no column {absent[0]!r}{nearest(absent[0], raw.columns) or '.'} There are: {listed(raw.columns)}"
        raise one_error(raw.name, "--keep", what)
    rows = _placed_roles(raw, roles, columns)
    return _with_kept(rows, raw, keep) if keep else rows


def _with_kept(rows: Iterator[PlacedRow], raw: Raw, keep: Sequence[str]) -> Iterator[PlacedRow]:
    loaded = {name: column_rows(column) for name, column in raw.load(list(dict.fromkeys(keep))).items()}
    for number, (place, row) in enumerate(rows):
        yield place, {**row, KEPT: {name: _told(loaded[name](number)) for name in loaded}}


def _placed_roles(raw: Raw, roles: Mapping[str, Role], columns: Mapping[str, str]) -> Iterator[PlacedRow]:
    wanted = {} if raw.nameless else columns
    if "input_ids" in raw.columns and not {"text", "words"} & set(wanted):
        return _in_chunks(raw, {name: name for name in (*TOKENISED_COLUMNS[:3], ID) if name in raw.columns})
    role = read_role(roles)
    raw, wanted = with_talks(*with_conversations(raw, wanted, roles), roles)
    if raw.nameless and not guess_column(role, roles[role].kind, raw.columns):
        picked = {role: raw.columns[0]}
    else:
        picked = roles_in(raw.columns, roles, wanted, raw.name or "rows")
    return _in_chunks(raw, picked, roles)


def _in_chunks(
    raw: Raw, picked: Mapping[str, str], roles: Mapping[str, Role] | None = None
) -> Iterator[PlacedRow]:
    loaded = raw.load(list(dict.fromkeys(picked.values())))
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for role, column in picked.items():
        values[role] = loaded[column]
        if roles is not None and role in roles:
            values[role], found = role_values(loaded[column], roles[role], column, raw.where, raw.folder)
            problems += found
            if _needed(roles[role]):
                problems += [
                    Problem(where=raw.where(row), key=role, what="there is no text")
                    for row in raw.lacks(column)
                ]
    if problems:
        raise data_error(problems)

    def rows() -> Iterator[PlacedRow]:
        for first in range(0, raw.rows, _CHUNK_ROWS):
            end = min(first + _CHUNK_ROWS, raw.rows)
            chunk = {
                role: column[first:end]
                if isinstance(column, list)
                else column.slice(first, end - first).to_pylist()
                for role, column in values.items()
            }
            for row in range(end - first):
                yield raw.where(first + row), _filled({role: chunk[role][row] for role in chunk}, roles)

    return rows()


def roles_in(
    available: Iterable[str], roles: Mapping[str, Role], columns: Mapping[str, str], where: str
) -> dict[str, str]:
    """Role -> column; targets are not read, and numbers are if they are there.

    Args:
        available: the columns that there are.
        roles: of the task.
        columns: role -> column, as the recipe has them.
        where: the place that a message names.
    """
    available = list(available)
    # A column of text that the recipe names has to be there, also that of a role which training may do without.
    read = {name for name, role in roles.items() if role.is_read and not role.absent_when_predicting}
    kept = {
        name: Role(meaning=role.meaning, kind=role.kind, required=role.required and name in read)
        for name, role in roles.items()
        if not role.has_classes and role.kind not in ("answers", "fold") and name != "label"
    }
    wanted = {
        role: column
        for role, column in columns.items()
        if role == ID or (role in kept and (role in read or column in available))
    }
    if ID in wanted and wanted[ID] not in available:
        del wanted[ID]
    return pick_columns(available, wanted, kept, where)


def _needed(role: Role) -> bool:
    return role.is_read and role.required and not role.absent_when_predicting


def _filled(row: dict[str, Any], roles: Mapping[str, Role] | None) -> dict[str, Any]:
    """An empty cell as an empty text, and names of rows as text or numbers."""
    for name, role in (roles or {}).items():
        if name in row and row[name] is None and _needed(role):
            row[name] = "" if role.kind == "text" else []
    if ID in row:
        name = plain(row[ID])
        row[ID] = name if isinstance(name, (str, int)) or is_missing(name) else text_of(name)
        if is_missing(row[ID]):
            del row[ID]
    return row


def column_rows(column: Any) -> Callable[[int], Any]:
    """What gives the value of a row, of a column of any kind."""
    return column.__getitem__ if isinstance(column, list) else lambda row: column[row].as_py()


def _told(value: Any) -> Any:
    """A value as JSON can have it: what is missing or not finite as null, dates and the like as text."""
    value = plain(value)
    if isinstance(value, Mapping):
        return {str(key): _told(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(each) for each in value]
    if is_missing(value) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, (str, bool, int, float)) else text_of(value)


# ---------------------------------------------------------------- objects


def rows_of_object(
    given: Any, *, roles: Mapping[str, Role], columns: Mapping[str, str], classes: Sequence[str] = ()
) -> Iterator[PlacedRow]:
    """Rows of an object: one text, many, one row, many, a table, or a dictionary of columns.

    Args:
        given: the object.
        roles: what the task reads.
        columns: role -> column.
        classes: what the model tells apart: a row (text, class) is one to train on, not a pair of texts.

    Raises:
        UsageError: it is none of these.
        DataError: a row that cannot be read, named by its number from 1.
    """
    given = _unwrapped(given, roles, columns)
    if isinstance(given, (str, bytes)):
        given = [given]
    elif isinstance(given, Path) or hasattr(given, "read"):
        raise UsageError(f"found {type(given).__name__}; for a file use bigbatch.predict_file")
    elif hasattr(given, "keys") and not is_table(given):
        if not _is_columns(given, roles, columns):
            given = [given]
        else:
            return _placed_object(_listed(given), roles, columns)
    elif is_table(given):
        return _placed_object(given, roles, columns)
    if isinstance(given, (set, frozenset)) or not (
        hasattr(given, "__iter__") or (hasattr(given, "__len__") and hasattr(given, "__getitem__"))
    ):
        raise UsageError(f"found {type(given).__name__}; {_EXPECTED}")
    rows = iter(given) if hasattr(given, "__iter__") else (given[row] for row in range(len(given)))
    return _one_by_one(rows, roles, columns, classes)


def _placed_object(table: Any, roles: Mapping[str, Role], columns: Mapping[str, str]) -> Iterator[PlacedRow]:
    raw = read_object(table, [])
    return placed(raw, roles, _or_roles(columns, raw.columns))


def _or_roles(columns: Mapping[str, str], available: Iterable[str]) -> dict[str, str]:
    """The recipe's names of columns; a role's own name where Python's rows have that instead."""
    there = {name.strip() for name in available}
    return {
        role: role if column.strip() not in there and role in there else column
        for role, column in columns.items()
    }


def _unwrapped(given: Any, roles: Mapping[str, Role], columns: Mapping[str, str]) -> Any:
    """Columns of pandas, numpy and Arrow as lists of texts; a row of pandas as a dictionary."""
    library, kind = type(given).__module__.partition(".")[0], type(given).__name__
    if library == "pandas" and kind == "Series":
        role = read_role(roles)
        names = [name for name in given.index if isinstance(name, str)]
        is_row = columns.get(role) in names or bool(guess_column(role, roles[role].kind, names))
        return given.to_dict() if is_row else given.tolist()
    if library in ("pandas", "polars") and kind in ("Index", "Series"):
        return given.to_list()
    if isinstance(given, (pa.Array, pa.ChunkedArray)):
        return given.to_pylist()
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "OSU" or given.ndim > 1:
            shown = f"an array of {given.dtype} of shape {given.shape}"
            raise UsageError(f"found {shown}; expected one text, or one array of texts")
        return given.tolist()
    return given


def _is_columns(given: Any, roles: Mapping[str, Role], columns: Mapping[str, str]) -> bool:
    """Whether a dictionary holds columns: a list where a row has one text, or lists of lists of words or ids."""
    names = [str(name) for name in given.keys()]  # noqa: SIM118 (BatchEncoding iterates over more)
    deep = "input_ids" in names and not {"text", "words"} & set(columns)
    if not deep and roles[read_role(roles)].kind == KIND:
        return are_columns({name: given[name] for name in names}, columns)
    wanted = _or_roles(columns, names)
    picked = {"input_ids": "input_ids"} if deep else roles_in(names, roles, wanted, "row 1")
    role, column = next((role, column) for role, column in picked.items() if role != ID)
    value = plain(given[column])
    if (not isinstance(value, (list, tuple)) and not hasattr(value, "__len__")) or isinstance(
        value, (str, bytes)
    ):
        return False
    if deep or roles[role].kind == "words":
        return len(value) == 0 or not isinstance(plain(next(iter(value))), (str, int))
    return True


def _listed(columns: Any) -> dict[str, Any]:
    return {name: plain(values) for name, values in column_values(columns).items()}


def _one_by_one(
    rows: Iterator[Any], roles: Mapping[str, Role], columns: Mapping[str, str], classes: Sequence[str]
) -> Iterator[PlacedRow]:
    """Rows that may be of different kinds and without end: each by itself."""
    known: dict[tuple[Any, ...], dict[str, str]] = {}
    for number, row in enumerate(rows, start=1):
        place = f"row {number}"
        named, by_role = _named(row, place, roles, columns, classes)
        if named.get("input_ids") is not None:
            yield place, _filled(named, None)
            continue
        if not by_role and roles[read_role(roles)].kind == KIND:
            named, by_role = conversation_row(named, columns, read_role(roles)), True
        if not by_role:
            named = talk_row(named, columns, roles, place)
        keys = (*named, by_role)
        if keys not in known:
            wanted = {} if by_role else _or_roles(columns, named)
            # Rows need not all have a text that the task can do without.
            wanted = {
                role: column
                for role, column in wanted.items()
                if column in named or role not in roles or roles[role].required
            }
            known[keys] = roles_in(named, roles, wanted, place)
        found: dict[str, Any] = {}
        problems: list[Problem] = []
        for role, column in known[keys].items():
            found[role] = named[column]
            if role in roles:
                values, wrong = role_values(
                    [named[column]], roles[role], column, lambda _, place=place: place
                )
                problems += wrong
                found[role] = values[0].as_py()
        if problems:
            raise data_error(problems)
        yield place, _filled(found, roles)


def _named(
    row: Any, place: str, roles: Mapping[str, Role], columns: Mapping[str, str], classes: Sequence[str]
) -> tuple[dict[str, Any], bool]:
    """A row with its columns' names, and whether these are roles: a text is the first role that the model reads, a
    tuple its roles in order.
    """
    row = plain(_unwrapped(row, roles, columns) if not isinstance(row, np.ndarray) else row)
    if isinstance(row, (str, bytes)) or is_missing(row):  # an empty cell of a column of texts
        return {read_role(roles): row}, True
    if hasattr(row, "_asdict"):
        row = row._asdict()
    if hasattr(row, "keys"):
        return {str(name): row[name] for name in row.keys()}, False  # noqa: SIM118
    positions = [name for name, role in roles.items() if role.is_read]
    if isinstance(row, (tuple, list)):
        if roles[positions[0]].kind == KIND:  # the messages themselves
            return {positions[0]: list(row)}, True
        if roles[positions[0]].kind == "words" and all(isinstance(word, (str, bytes)) for word in row):
            return {positions[0]: list(row)}, True
        _check_parts(row, place, positions, classes)
        if 0 < len(row) <= len(positions):
            return dict(zip(positions, row, strict=False)), True
    shown = f"{type(row).__name__} of {len(row)}" if isinstance(row, (tuple, list)) else type(row).__name__
    raise one_error(
        place, "", f"found {shown}; expected a text, a dictionary, or a tuple ({', '.join(positions)})"
    )


def _check_parts(row: Sequence[Any], place: str, positions: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse numbers where texts are expected: an index of `enumerate` or `itertuples` is not read as a text."""
    for part in map(plain, row):
        if isinstance(part, (bool, int, float)) and not is_missing(part):
            shown = f"({', '.join(type(plain(each)).__name__ for each in row)})"
            what = f"found a tuple {shown}; expected texts ({', '.join(positions)}): leave out the index or the label"
            raise one_error(place, "", what)
    if len(row) == 2 and isinstance(row[1], str) and row[1] in classes:
        what = (
            f"found a tuple (text, {row[1]!r}), and {row[1]!r} is a class of this model: pass the texts alone"
        )
        raise one_error(place, "", f"{what}; a pair of texts that is meant so as {{'text': …, 'pair': …}}")
