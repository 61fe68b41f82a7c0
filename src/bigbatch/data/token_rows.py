"""Rows that come as token ids: what is wrong with them, each with its row, before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from bigbatch.data.values import convert
from bigbatch.errors import Problem
from bigbatch.files.class_names import NOT_COUNTED
from bigbatch.files.plain import is_missing, plain
from bigbatch.files.raw import Column
from bigbatch.protocols import Role, Row

Where = Callable[[int], str]
_IDS = pa.large_list(pa.int64())
_MOST = {"input_ids": 2**31 - 1, "attention_mask": 1, "token_type_ids": 127}
"""Largest number that each column may hold, of any model."""


def token_columns(
    columns: Mapping[str, Column], where: Where, *, may_be_empty: bool
) -> tuple[dict[str, pa.ChunkedArray], list[Problem]]:
    """Token ids, masks and segments as lists of integers, and what is wrong with them.

    Args:
        columns: `input_ids`, and `attention_mask` and `token_type_ids` if there are such; as the source has them.
        where: names a row in messages.
        may_be_empty: whether a row without ids is none to speak of (of a language model).
    """
    found: dict[str, pa.ChunkedArray] = {}
    problems: list[Problem] = []
    for key in _MOST:
        if key in columns:
            found[key], wrong = _integers(columns[key], key, where)
            problems += wrong
    if problems:
        return found, problems
    lengths_B = token_lengths(found["input_ids"])
    if not may_be_empty:
        problems += [
            Problem(where=where(int(row)), key="input_ids", what="no token ids; remove the row")
            for row in np.flatnonzero(lengths_B == 0)
        ]
    for key in found:
        others_B = token_lengths(found[key])
        problems += [
            Problem(
                where=where(int(row)),
                key=key,
                what=f"found {others_B[row]} entries for {lengths_B[row]} input_ids; expected one each",
            )
            for row in np.flatnonzero((others_B >= 0) & (others_B != lengths_B))
        ]
    return found, problems


def are_ids(column: Column) -> bool:
    """Whether a column that may hold texts holds lists of integers."""
    lists = _as_lists(column)
    return lists is not None and len(lists) > lists.null_count


def text_ids(column: Column, key: str, where: Where) -> tuple[pa.ChunkedArray, list[Problem]]:
    """Token ids that stand for a text, and what is wrong with them: a row of none, too.

    Args:
        column: lists, as the source has them.
        key: the column's own name.
        where: names a row in messages.
    """
    found, problems = _integers(column, "input_ids", where)
    problems = [replace(problem, key=key) for problem in problems]
    if not problems:
        empty_B = np.flatnonzero(token_lengths(found) == 0)
        problems = [
            Problem(where=where(int(row)), key=key, what="no token ids; remove the row") for row in empty_B
        ]
    return found, problems


def role_values(
    column: Column, role: Role, key: str, where: Where, folder: Path | None = None
) -> tuple[pa.ChunkedArray, list[Problem]]:
    """A column to predict from in the form of its role, or its token ids; and what is wrong with it.

    Args:
        column: as the source has it.
        role: what it is read as.
        key: the column's own name.
        where: names a row in messages.
        folder: that paths of images start from.
    """
    if role.may_be_ids and are_ids(column):
        return text_ids(column, key, where)
    return convert(column, role.kind, key, where, folder)


def id_labels(
    column: Column, lengths_B: np.ndarray | None, key: str, where: Where
) -> tuple[pa.ChunkedArray, list[Problem]]:
    """Class ids, one a row, or one a token, as integers; and what is wrong with them.

    Args:
        column: numbers, as the source has them.
        lengths_B: (rows,) tokens of each row, where each has a label; None: one label a row.
        key: the column's own name.
        where: names a row in messages.
    """
    whole = not isinstance(column, list) and pa.types.is_integer(column.type)
    if lengths_B is None and whole and not _out_of_range(column, None):
        return column, []
    values = column if isinstance(column, list) else column.to_pylist()
    labels: list[Any] = []
    problems = []
    for row, value in enumerate(values):
        try:
            labels.append(_label(plain(value), None if lengths_B is None else int(lengths_B[row])))
        except ValueError as error:
            labels.append(None)
            problems.append(Problem(where=where(row), key=key, what=str(error)))
    kind = pa.int64() if lengths_B is None else pa.list_(pa.int64())
    return pa.chunked_array([pa.array(labels, kind)]), problems


def _label(value: Any, tokens: int | None) -> Any:
    if is_missing(value):
        return None
    if tokens is None:
        if isinstance(value, (list, tuple)):
            raise ValueError(f"found a list, {str(value)[:40]}; expected one class id")
        return _whole(value, "a class id: 0, 1, 2, … or -100 for none", None, int(NOT_COUNTED))
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"found {value!r:.40}; expected a list of class ids, one for each of the input_ids")
    if len(value) != tokens:
        raise ValueError(f"found {len(value)} labels for {tokens} input_ids; expected one each")
    wanted = "class ids: 0, 1, 2, … or -100 for none"
    return [_whole(plain(entry), wanted, None, int(NOT_COUNTED)) for entry in value]


def _integers(column: Column, key: str, where: Where) -> tuple[pa.ChunkedArray, list[Problem]]:
    quick = _as_lists(column)
    if quick is not None and not (key == "input_ids" and quick.null_count):
        entries = compute.call_function("list_flatten", [quick])
        if not entries.null_count and not _out_of_range(entries, _MOST[key]):
            return quick, []
    lists: list[Any] = []
    problems = []
    for row, value in enumerate(column if isinstance(column, list) else column.to_pylist()):
        try:
            lists.append(integer_list(value, key))
        except ValueError as error:
            lists.append(None)
            problems.append(Problem(where=where(row), key=key, what=str(error)))
    return pa.chunked_array([pa.array(lists, _IDS)]), problems


def integer_list(value: Any, key: str) -> list[int] | None:
    """One row's token ids, mask or segments.

    Raises:
        ValueError: they are none.
    """
    value = plain(value)
    if is_missing(value) and key != "input_ids":
        return None
    what = {"attention_mask": "zeros and ones"}.get(key, "integers from 0")
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"found {value!r:.40}; expected a list of {what}")
    return [_whole(plain(entry), what, _MOST[key]) for entry in value]


def _whole(value: Any, expected: str, most: int | None, besides: int = 0) -> int:
    whole = isinstance(value, (int, float)) and value == value // 1
    if whole and (value == besides or (value >= 0 and (most is None or value <= most))):
        return int(value)
    raise ValueError(f"found {value!r:.40}; expected {expected}")


def _as_lists(column: Column) -> pa.ChunkedArray | None:
    """As lists of integers, where they are such."""
    try:
        lists = pa.chunked_array([pa.array(column)]) if isinstance(column, list) else column
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None
    kind = lists.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists if is_list and pa.types.is_integer(kind.value_type) else None


def _out_of_range(integers: Any, most: int | None) -> bool:
    found = compute.call_function("min_max", [integers]).as_py()
    if found["min"] is None:
        return False
    return found["min"] < 0 or (most is not None and found["max"] > most)


def token_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) entries of each list, -1 where there is none."""
    return compute.call_function("list_value_length", [column]).fill_null(-1).to_numpy().astype(np.int64)


def first_above(column: pa.ChunkedArray, most: int) -> tuple[int, int] | None:
    """(row, number) of the first row that holds a number above `most`."""
    entries_T = compute.call_function("list_flatten", [column]).to_numpy()
    above = np.flatnonzero(entries_T > most)
    if not len(above):
        return None
    ends_B = np.cumsum(np.maximum(token_lengths(column), 0))
    return int(np.searchsorted(ends_B, above[0], side="right")), int(entries_T[above[0]])


def check_row(row: Row, place: str, keys: Sequence[str] = tuple(_MOST)) -> list[Problem]:
    """What is wrong with one row of token ids.

    Args:
        row: key -> list of numbers.
        place: `file:row`.
        keys: those to look at, where the row has them.
    """
    rows = {key: [row[key]] for key in keys if key in row}
    return token_columns(rows, lambda _: place, may_be_empty=True)[1]
