"""Sums of floats that do not depend on the order of the terms or on where the stream was cut."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

Parts = tuple[float, ...]
"""A sum, exactly: floats that add up to it without any rounding, largest first."""


def exact_parts(values: Iterable[float] | np.ndarray) -> Parts:
    """The exact sum of fp64 values, as a few floats (usually two).

    `math.fsum` gives the correctly rounded sum; what it rounded away is the exact sum of the values and the negated
    result, so that repeating it until nothing is left gives all of it.
    """
    rest = values.tolist() if isinstance(values, np.ndarray) else list(values)
    parts: list[float] = []
    while total := _fsum(rest):
        parts.append(total)
        if not math.isfinite(total):
            return (total,)
        rest.append(-total)
    return tuple(parts)


def add_parts(left: Parts, right: Parts) -> Parts:
    """The exact sum of two exact sums."""
    return exact_parts([*left, *right])


def total(parts: Parts) -> float:
    """The sum, correctly rounded."""
    return _fsum(parts)


def _fsum(values: Iterable[float]) -> float:
    try:
        return math.fsum(values)
    except ValueError:  # infinities of both signs
        return math.nan
    except OverflowError:
        return math.inf
