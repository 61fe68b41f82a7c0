"""What a column says of how a sequence is folded, in one form: places of its letters, or pairs of them.

::

    [[11.7, 32.2, 50.1], null, …]     where each letter is, in Å; null: nobody knows
    ((((..[[[))))..]]]                RNA: which letters pair, in dot-bracket notation

Both are kept as text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from bigbatch.files.plain import is_missing, plain, text_of

_OPEN, _CLOSE = "([{<", ")]}>"
_UNPAIRED = ".-_,:"
_FORM = "a list of [x, y, z] or null, one a letter, or brackets such as ((..))"
_FAR = 1e6
"""Beyond this no atom is (Å)."""


def fold_of(value: object) -> str | None:
    """A fold as text; None when missing.

    Args:
        value: a list of `[x, y, z]` or None, that as JSON, or dots and brackets.

    Raises:
        ValueError: none of these, brackets that do not match, or a place that is no place.
    """
    value = plain(value)
    if isinstance(value, (str, bytes)):
        text = (text_of(value) or "").strip()
        if not text:
            return None
        if is_brackets(text):
            partners_of(text)
            return text
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError(f"expected {_FORM}; found {text[:40]!r}") from None
    if is_missing(value):
        return None
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected {_FORM}; found {type(value).__name__}")
    if not value:
        return None
    return json.dumps(
        [_point(plain(each), place) for place, each in enumerate(value, start=1)], separators=(",", ":")
    )


def _point(value: object, place: int) -> list[float] | None:
    if value is None or is_missing(value):
        return None
    numbers = [plain(each) for each in value] if isinstance(value, (list, tuple)) else []
    if len(numbers) != 3 or not all(_is_number(each) for each in numbers):
        raise ValueError(f"letter {place}: expected [x, y, z] in Å or null, found {str(value)[:40]!r}")
    return [round(float(str(each)), 3) for each in numbers]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _FAR


def holds_folds(values: Sequence[object]) -> bool:
    """Whether values of a column are folds, and some are there."""
    try:
        found = [fold_of(value) for value in values]
    except ValueError:
        return False
    return any(each is not None and len(each) > 1 for each in found)


def is_brackets(text: str) -> bool:
    """Whether a fold is written in brackets; places have digits, or `null`."""
    return set(text) <= {*_OPEN, *_CLOSE, *_UNPAIRED}


def partners_of(brackets: str) -> np.ndarray:
    """(L,) int64: the letter that each is paired with, from 0; -1: with none.

    Args:
        brackets: dot-bracket notation; several kinds of brackets may cross.

    Raises:
        ValueError: a bracket without its partner.
    """
    partners = np.full(len(brackets), -1, np.int64)
    waiting: dict[int, list[int]] = {kind: [] for kind in range(len(_OPEN))}
    for place, sign in enumerate(brackets):
        if sign in _OPEN:
            waiting[_OPEN.index(sign)].append(place)
        elif sign in _CLOSE:
            kind = _CLOSE.index(sign)
            if not waiting[kind]:
                raise ValueError(f"letter {place + 1}: a {sign} that closes nothing")
            first = waiting[kind].pop()
            partners[first], partners[place] = place, first
    left = [places[0] for places in waiting.values() if places]
    if left:
        raise ValueError(f"letter {min(left) + 1}: a {brackets[min(left)]} that nothing closes")
    return partners


def fold_arrays(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Places (L, 3) float32, NaN where unknown, and partners (L,) int64 as of `partners_of`; of the two one says
    nothing.

    Args:
        text: as `fold_of` gave it.
    """
    if is_brackets(text):
        return np.full((len(text), 3), np.nan, np.float32), partners_of(text)
    points = [[np.nan] * 3 if each is None else each for each in json.loads(text)]
    return np.array(points, np.float32).reshape(-1, 3), np.full(len(points), -1, np.int64)
