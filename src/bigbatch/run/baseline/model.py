"""What every kind of baseline gives: a name, and outputs for the units of a split that the task decodes as its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bigbatch.data.tables import DataTable
from bigbatch.samples import Predictions, Table


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A split before and after tokenising."""

    rows: DataTable
    table: Table
    """As training sees it, or as evaluations do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A fitted baseline."""

    name: str
    outputs: Callable[[Split], np.ndarray | Predictions]
    """(U, C) of all units of a split, or what the task would have decoded them to."""
    texts: Callable[[Split], Sequence[str]] | None = None
    """Of each row, where texts are what is scored."""
    note: str = ""
    """What was left out for want of time or room."""


def written(name: str, texts: Callable[[Split], Sequence[str]], note: str = "") -> Baseline:
    """A baseline that gives texts, and no token a probability.

    Args:
        name: of the baseline.
        texts: what it gives for each row of a split.
        note: what was left out for want of time or room.
    """
    return Baseline(name=name, outputs=_nothing, texts=texts, note=note)


def _nothing(split: Split) -> Predictions:
    """Nothing of any token."""
    units = len(split.table.weights)
    return Predictions(
        kind="language", scores=np.zeros((units, 2)), probabilities=None, values=np.zeros(units, bool)
    )


def spread(count: int, most: int) -> np.ndarray:
    """At most so many of `count` numbers, evenly spread, ascending."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.floor(np.arange(most) * (count / most)).astype(np.int64))
