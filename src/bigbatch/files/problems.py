"""Collecting what is wrong with the data, so that all of it is counted and the first places are shown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bigbatch.errors import DataError, Problem

SHOWN = 20
"""Places shown in one message; the others are counted."""


def data_error(problems: Sequence[Problem]) -> DataError:
    """One error for all problems: the first `SHOWN` in full, then "and 31 more"."""
    more = len(problems) - SHOWN
    shown = list(problems[:SHOWN])
    return DataError([*shown, Problem(where="", what=f"and {more:,} more")] if more > 0 else shown)


def one_error(where: str, key: str, what: str) -> DataError:
    """An error with a single problem.

    Args:
        where: file, or `file:row`.
        key: of the recipe; empty: none is meant.
        what: found, expected, remedy.
    """
    return DataError([Problem(where=where, key=key, what=what)])


def placed(error: DataError, where: str) -> list[Problem]:
    """What a task says of a row that it refuses, at that row.

    Args:
        error: raised by the task, which does not know where a row comes from.
        where: `file:row`.
    """
    found = error.problems or (Problem(where="", what=str(error)),)
    return [replace(problem, where=where) for problem in found]


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean label?`, or nothing when no name is near."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {by_lower[found[0]]}?" if found else ""


def listed(names: Sequence[str], most: int = 12) -> str:
    """`a, b, c` or `a, b, c and 9 more`."""
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def shown_names(names: Sequence[str]) -> str:
    """Names between quotes, so that blanks are seen: `['a ', 'a']`."""
    quoted = listed([repr(name) for name in names])
    return f"[{quoted}]"
