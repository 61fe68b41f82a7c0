"""Values of a column, brought to the form of its role: text, class name, class names, number, words or tags.

Class names are text everywhere, so that `3`, `3.0` and "3" are one class in every format; `labels` orders them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa

from bigbatch.data.raw import Column
from bigbatch.errors import Problem

Where = Callable[[int], str]
"""Row (from 0) -> place for messages."""

SEPARATOR = "|"
"""Between class names when a multi-label column holds text: `politics|sport`."""

_INTEGER = re.compile(r"[+-]?\d+\.0+")
_TEXT = pa.large_string()
_PANDAS_MISSING = ("NAType", "NaTType")
"""pandas.NA and NaT, told by name, since pandas is never imported here."""


def convert(column: Column, kind: str, key: str, where: Where) -> tuple[pa.ChunkedArray, list[Problem]]:
    """A column in the form of its role, missing values as null, and what could not be converted.

    Args:
        column: the values as the source has them.
        kind: `text` -> large_string; `label` -> large_string; `labels`, `words` and `tags` -> list of
            large_string; `number` -> float64.
        key: the column's own name.
        where: names a row in messages.
    """
    if not isinstance(column, list) and kind in ("text", "label") and _is_text(column.type):
        if kind == "text":
            return column.cast(_TEXT), []
        return _by_distinct_value(column, key, where)
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


def plain(value: Any) -> Any:
    """Numpy scalars, tensors and arrays as Python values; NaN stays a float."""
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if hasattr(value, "tolist") else value


def text_of(value: Any) -> str | None:
    """Text; numbers and booleans as they print.

    Raises:
        ValueError: a list or an object, or text that cannot be stored.
    """
    if value is None or _is_nan(value):
        return None
    if isinstance(value, (bool, int, float)):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"half a surrogate pair at character {error.start}: this is not text") from None
    return value


def label_of(value: Any) -> str | None:
    """The class's name: `3`, `3.0` and "3" are "3", True is "true", text without outer blanks; None when missing.

    Raises:
        ValueError: a number that is no integer, a list or an object.
    """
    if value is None or _is_nan(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError(
                f"{value!r} is not a class; for numbers set task: {{name: classify, kind: regression}}"
            )
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        hint = (
            "; for several labels a row set task: {name: classify, kind: multi}"
            if isinstance(value, list)
            else ""
        )
        raise ValueError(f"expected a label, found {type(value).__name__}{hint}")
    name = text_of(value.strip())
    if not name or name.lower() == "nan":
        return None
    return str(int(float(name))) if _INTEGER.fullmatch(name) else name


def labels_of(value: Any) -> list[str] | None:
    """Several class names: a list, or text with `|` between them; empty text is no label, None is missing.

    Raises:
        ValueError: an entry that is missing or is no label.
    """
    if value is None or _is_nan(value):
        return None
    if isinstance(value, str):
        value = [part for part in value.split(SEPARATOR) if part.strip()]
    elif not isinstance(value, (list, tuple)):
        value = [value]
    names = [label_of(plain(part)) for part in value]
    if None in names:
        raise ValueError("one of the labels is missing")
    return [name for name in dict.fromkeys(names) if name is not None]


def number_of(value: Any) -> float | None:
    """A number, also written as text; None when missing, NaN and infinity are kept for the checks.

    Raises:
        ValueError: it is no number.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == "" or type(value).__name__ in _PANDAS_MISSING:
        return None
    try:
        return float(cast("float | str", value))
    except (TypeError, ValueError):
        raise ValueError(f"expected a number, found {str(value)[:40]!r}") from None


def words_of(value: Any) -> list[str] | None:
    """The words of a sentence: a list, or text that is split at white space; None when missing.

    Raises:
        ValueError: an entry that is missing or no text.
    """
    if value is None or _is_nan(value):
        return None
    if isinstance(value, str):
        text = text_of(value)
        return text.split() if text else []
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list of words, found {type(value).__name__}")
    words = [text_of(word) for word in value]
    if None in words:
        raise ValueError(f"word {words.index(None) + 1} is missing")
    return [word for word in words if word is not None]


def tags_of(value: Any) -> list[str] | None:
    """The tags of a sentence, one a word: a list, or text that is split at white space; None when missing.

    Raises:
        ValueError: an entry that is missing or no tag.
    """
    if value is None or _is_nan(value):
        return None
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list of tags, one a word, found {type(value).__name__}")
    names = [label_of(plain(tag)) for tag in value]
    if None in names:
        raise ValueError(f"tag {names.index(None) + 1} is missing")
    return [name for name in names if name is not None]


def _is_text(kind: pa.DataType) -> bool:
    value_type = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value_type) or pa.types.is_large_string(value_type)


def _is_nan(value: Any) -> bool:
    return (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in _PANDAS_MISSING


def _by_distinct_value(
    column: pa.ChunkedArray, key: str, where: Where
) -> tuple[pa.ChunkedArray, list[Problem]]:
    """Labels as text: converting each distinct one once is enough."""
    coded = column.cast(_TEXT).combine_chunks()
    coded = (coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded).dictionary_encode()
    names = pa.array([label_of(value) for value in coded.dictionary.to_pylist()], _TEXT)
    return pa.chunked_array([names.take(coded.indices)]), []


def _mixed(values: Sequence[Any], key: str, where: Where) -> list[Problem]:
    """Rows whose label has another type than most: 1, "1" and true in one column are a mistake."""
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        value = plain(value)
        if isinstance(value, bool):
            rows.setdefault("true/false", []).append(row)
        elif isinstance(value, (int, float)) and not _is_nan(value):
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
    "labels": (labels_of, pa.list_(_TEXT)),
    "number": (number_of, pa.float64()),
    "words": (words_of, pa.list_(_TEXT)),
    "tags": (tags_of, pa.list_(_TEXT)),
}
"""Kind of role -> how a value is converted, and the type of the column."""
