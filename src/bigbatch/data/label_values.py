"""What the values of a column seem to be as labels: classes, several a row, or numbers; and how many of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bigbatch.data.labels import Kind, sorted_labels
from bigbatch.errors import Problem
from bigbatch.files.class_names import SEPARATOR, label_lists, label_of, written_list

MOST_CLASSES = 200
"""Distinct values up to which a column may hold classes."""


def distinct(values: Sequence[Any], most: int) -> int:
    """Number of distinct values, counted no further than `most` + 1."""
    seen: set[str] = set()
    for value in values:
        seen.add(repr(value))
        if len(seen) > most:
            break
    return len(seen)


def kind_of_labels(values: Sequence[Any]) -> Kind:
    """Several labels a row, a number, or a class."""
    present = [value for value in values if value is not None and value != ""]
    if any(_is_list(value) for value in present):
        return "multi"
    if any(isinstance(value, str) and SEPARATOR in value for value in present):
        parts = {part for value in present for part in str(value).split(SEPARATOR)}
        if len(parts) < len({str(value) for value in present}) or len(parts) <= MOST_CLASSES:
            return "multi"
    try:
        numbers = {float(value) for value in present if not isinstance(value, bool)}
    except (TypeError, ValueError, OverflowError):
        return "single"
    whole = all(number.is_integer() for number in numbers)
    return "single" if whole and len(numbers) <= MOST_CLASSES else "regression"


def is_empty(value: Any) -> bool:
    """Whether it says nothing: None, NaN, or blanks."""
    return value is None or (isinstance(value, float) and value != value) or not str(value).strip()


def counted(labels: Sequence[Any], kind: Kind) -> tuple[dict[str, int], int]:
    """Rows of each class, and rows without a label; values that are no labels count as missing."""
    if kind == "regression":
        return {}, sum(is_empty(value) for value in labels)
    if kind == "multi":
        rows: list[list[str] | None] = label_lists(labels, lambda row, what: Problem(where="", what=what))[0]
    else:
        rows = [None if name is None else [name] for name in map(label_or_none, labels)]
    counts = Counter(name for row in rows for name in row or ())
    return {name: counts[name] for name in sorted_labels(list(counts))}, sum(row is None for row in rows)


def label_or_none(value: Any) -> str | None:
    """The class that it names; None where it names none."""
    try:
        return label_of(value)
    except ValueError:
        return None


def _is_list(value: Any) -> bool:
    """Whether a label is a list, also one that a table has as text."""
    try:
        return isinstance(value, list) or (isinstance(value, str) and written_list(value) is not None)
    except ValueError:
        return True
