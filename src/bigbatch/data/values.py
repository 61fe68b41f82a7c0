"""Values of a column, brought to the form of its role: text, class name, class names, number, words, or tags or
numbers of words.

Which class a value stands for is decided in `class_names`; `labels` orders them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigbatch.errors import Problem
from bigbatch.files.boxes import KIND as BOXES
from bigbatch.files.boxes import boxes_of
from bigbatch.files.class_names import NOT_COUNTED, label_lists, label_of, tags_of, written_list
from bigbatch.files.folds import fold_of
from bigbatch.files.images import image_column
from bigbatch.files.plain import BLANKS, is_missing, plain, text_of
from bigbatch.files.raw import Column
from bigbatch.files.squad import answers_of
from bigbatch.turns import conversations, without_nulls

Where = Callable[[int], str]
"""Row (from 0) -> place for messages."""

LARGEST_NUMBER = float(np.finfo(np.float32).max)
"""Of a target: losses are computed in float32."""
NUMBERS = ("number", "numbers")
"""Kinds of roles that hold numbers."""
_TEXT = pa.large_string()
_NUMBER_WORDS: dict[str, Any] = {"true": 1.0, "false": 0.0}


def convert(
    column: Column, kind: str, key: str, where: Where, folder: Path | None = None
) -> tuple[pa.ChunkedArray, list[Problem]]:
    """A column in the form of its role, missing values as null, and what could not be converted.

    Args:
        column: the values as the source has them.
        kind: `text` -> large_string; `label` -> large_string; `labels`, `words` and `tags` -> list of
            large_string; `number` -> float64; `numbers` -> list of float64; `image` -> `images.KIND`; `messages` ->
            large_string, JSON, as `answers`; `classes` as `tags`; `boxes` -> `boxes.KIND`;
            `fold` -> large_string; `items` -> list of large_string; `grades` -> list of
            float64.
        key: the column's own name.
        where: names a row in messages.
        folder: that paths of images start from.
    """
    if kind == "image":
        return image_column(column, key, where, folder)
    if kind == "messages":
        rows = column if isinstance(column, list) else map(without_nulls, column.to_pylist())
        told, faults = conversations(rows)
        wrong = [Problem(where=where(row), key=key, what=what) for row, what in faults]
        return pa.chunked_array([pa.array(told, _TEXT)]), wrong
    if not isinstance(column, list) and kind in ("text", "label") and _is_text(column.type):
        if kind == "text":
            return column.cast(_TEXT), []
        return _by_distinct_value(column, key, where)
    if kind == "items" and not isinstance(column, list) and not pa.types.is_nested(column.type):
        names, problems = convert(column, "text", key, where)
        return pa.chunked_array([_alone(chunk) for chunk in names.chunks], pa.list_(_TEXT)), problems
    if kind == "labels":
        lists, problems, _ = convert_labels(column, key, where)
        return lists, problems
    one, arrow = _FORMS[kind]
    values = column if isinstance(column, list) else column.to_pylist()
    converted: list[Any] = []
    problems: list[Problem] = []
    for row, value in enumerate(values):
        try:
            converted.append(one(plain(value)))
        except ValueError as error:
            converted.append(None)
            problems.append(Problem(where=where(row), key=key, what=str(error)))
    if kind == "label" and isinstance(column, list):
        problems += _mixed(values, key, where)
    return pa.chunked_array([pa.array(converted, arrow)]), problems


def _alone(names: pa.Array) -> pa.Array:
    """Each text as a list of its own; a missing or empty one as an empty list."""
    there = pc.call_function("and", [names.is_valid(), pc.call_function("not_equal", [names, ""])]).fill_null(
        False
    )
    offsets = np.concatenate([[0], np.cumsum(there.to_numpy(zero_copy_only=False))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), names.filter(there))


def items_of(value: object) -> list[str] | None:
    """Names of items, of which a row may have one or several; None where there are none.

    Raises:
        ValueError: an entry that is no name.
    """
    value = plain(value)
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    found = [text_of(plain(each)) for each in (value if isinstance(value, list) else [value])]
    if any(each is None or not each.strip() for each in found):
        raise ValueError("an item without a name")
    return [each for each in found if each is not None]


def convert_labels(column: Column, key: str, where: Where) -> tuple[pa.ChunkedArray, list[Problem], int]:
    """As `convert` for several labels a row; also the places of multi-hot lists (0: names).

    Args:
        column: names, ids or lists of either, a row each.
        key: of the recipe, for messages.
        where: row number -> place.
    """
    values = column if isinstance(column, list) else column.to_pylist()
    names, problems, places = label_lists(
        values, lambda row, what: Problem(where=where(row), key=key, what=what)
    )
    return pa.chunked_array([pa.array(names, pa.list_(_TEXT))]), problems, places


def number_of(value: Any) -> float | None:
    """A number, also written as text; None when missing, NaN and infinity are kept for the checks.

    Raises:
        ValueError: it is no number.
    """
    if isinstance(value, list) and len(value) == 1:
        value = plain(value[0])
    if isinstance(value, str):
        value = _NUMBER_WORDS.get(value.strip().lower(), value.strip())
    if value in (None, "") or (is_missing(value) and not isinstance(value, float)):
        return None
    try:
        if isinstance(value, str) and "_" in value:
            raise ValueError
        number: float | None = float(cast("float | str", value))
    except OverflowError:  # an integer of hundreds of digits
        number = None
    except (TypeError, ValueError):
        raise ValueError(f"expected a number, found {str(value)[:40]!r}") from None
    if number is None or LARGEST_NUMBER < abs(number) < math.inf:
        raise ValueError(too_large(number))
    return number


def numbers_of(value: Any) -> list[float] | None:
    """A list of finite numbers, also written as text (`[0.5, 2]` or `0.5 2`); None when missing.

    Raises:
        ValueError: an entry that is missing, no number or not finite.
    """
    value = plain(value)
    if is_missing(value):
        return None
    if isinstance(value, (str, bytes)):
        text = text_of(value) or ""
        value = written_list(text) or text.split()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list of numbers, found {type(value).__name__}")
    numbers: list[float] = []
    for place, entry in enumerate(value, start=1):
        number = number_of(plain(entry))
        if number is None or not math.isfinite(number):
            raise ValueError(f"number {place} is {'missing' if number is None else number}")
        numbers.append(number)
    return numbers


def grades_of(value: object) -> list[float] | None:
    """Numbers as `numbers_of`, or one alone as a list of it.

    Raises:
        ValueError: as `numbers_of`.
    """
    value = plain(value)
    return numbers_of([value] if isinstance(value, (int, float)) and not is_missing(value) else value)


def too_large(number: float | None) -> str:
    """What is wrong with a number that the loss cannot be computed of; None: one that not even float64 holds."""
    shown = "an integer of more than 308 digits" if number is None else f"{number:g}"
    return f"{shown} is beyond {LARGEST_NUMBER:.3g}, the largest number that float32 holds; scale the column"


def words_of(value: Any) -> list[str] | None:
    """The words of a sentence: a list, a list written as text, or text that is split at blanks; None when missing.

    Raises:
        ValueError: an entry that is missing or no text.
    """
    value = plain(value)
    if is_missing(value):
        return None
    if isinstance(value, (str, bytes)):
        text = text_of(value) or ""
        value = _written_words(text) or [word for word in re.split(f"[{BLANKS}]", text) if word]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list of words, found {type(value).__name__}")
    words = [text_of(word) for word in value]
    if None in words:
        raise ValueError(f"word {words.index(None) + 1} is missing")
    return [word for word in words if word is not None]


def _written_words(text: str) -> list[str] | None:
    """Of `['Bob', 'sleeps']`, as a table of pandas has it; a sentence may well stand in brackets otherwise."""
    try:
        found = written_list(text)
    except ValueError:
        return None
    return found if found and all(isinstance(word, str) for word in found) else None


def _is_text(kind: pa.DataType) -> bool:
    value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value_type) or pa.types.is_large_string(value_type)


def _by_distinct_value(
    column: pa.ChunkedArray, key: str, where: Where
) -> tuple[pa.ChunkedArray, list[Problem]]:
    """Labels as text: converting each distinct one once is enough."""
    coded = column.cast(_TEXT).combine_chunks()
    coded = (coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded).dictionary_encode()
    names: list[str | None] = []
    faults: dict[int, str] = {}
    given = coded.dictionary.to_pylist()
    for code, value in enumerate(given):
        try:
            names.append(label_of(value))
        except ValueError as error:
            names.append(None)
            faults[code] = str(error)
    codes = coded.indices.to_pylist() if faults else []
    problems = [
        Problem(where=where(row), key=key, what=faults[code])
        for row, code in enumerate(codes)
        if code in faults
    ]
    # `pa.array` loads pandas, where that is installed: not for labels that stay as they are.
    labels = coded.dictionary if names == given else pa.array(names, _TEXT)
    return pa.chunked_array([labels.take(coded.indices)]), problems


def _mixed(values: Sequence[Any], key: str, where: Where) -> list[Problem]:
    """Rows whose label has another type than most: 1, "1" and true in one column are a mistake."""
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        value = plain(value)
        if isinstance(value, bool):
            rows.setdefault("true/false", []).append(row)
        elif isinstance(value, (int, float)) and not is_missing(value) and value != int(NOT_COUNTED):
            rows.setdefault("a number", []).append(row)
        elif isinstance(value, str):
            rows.setdefault("text", []).append(row)
    if len(rows) < 2:
        return []
    usual = max(rows, key=lambda name: len(rows[name]))
    odd = sorted((row, name) for name, places in rows.items() if name != usual for row in places)
    what = f"mixed label types: here it is {{}}, in {len(rows[usual]):,} rows it is {usual}"
    return [Problem(where=where(row), key=key, what=what.format(name)) for row, name in odd]


_FORMS: dict[str, tuple[Callable[[Any], Any], pa.DataType]] = {
    "text": (text_of, _TEXT),
    "label": (label_of, _TEXT),
    "number": (number_of, pa.float64()),
    "numbers": (numbers_of, pa.list_(pa.float64())),
    "words": (words_of, pa.list_(_TEXT)),
    "tags": (tags_of, pa.list_(_TEXT)),
    "classes": (tags_of, pa.list_(_TEXT)),
    "answers": (answers_of, _TEXT),
    "fold": (fold_of, _TEXT),
    "items": (items_of, pa.list_(_TEXT)),
    "boxes": (boxes_of, BOXES),
    "grades": (grades_of, pa.list_(pa.float64())),
}
"""Kind of role -> how a value is converted, and the type of the column."""
