"""Columns of several sources as one, and a fixed sample of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigbatch.data.order import epoch_order
from bigbatch.files.plain import plain
from bigbatch.files.raw import Raw

_POINTS = {"p10": 10, "p50": 50, "p90": 90, "p99": 99}
_SAMPLE_ROWS = 2000
"""Rows whose texts are measured; labels are counted in all."""


class Sampled:
    """Columns of all files; a fixed sample of rows for what is slow to measure."""

    def __init__(self, raws: Sequence[Raw], rows: int) -> None:
        self.rows = rows
        self.sample = np.sort(epoch_order(0, 0, rows)[:_SAMPLE_ROWS])
        self._raws = raws
        self._loaded: dict[str, list[Any]] = {}

    def all(self, name: str) -> list[Any]:
        """Every value of a column as a plain Python value."""
        if name not in self._loaded:
            values: list[Any] = []
            for raw in self._raws:
                column = raw.load([name])[name]
                values += column if isinstance(column, list) else column.to_pylist()
            self._loaded[name] = list(map(plain, values))
        return self._loaded[name]

    def flat(self, name: str) -> list[Any]:
        """Every entry of a column of lists, row after row."""
        return [entry for row in self.all(name) for entry in row or ()]

    def some(self, name: str) -> list[Any]:
        """The sample's values."""
        values = self.all(name)
        return [values[row] for row in self.sample]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """`p10`, `p50`, `p90`, `p99`; 0 of nothing."""
    points = np.percentile(values, list(_POINTS.values())) if values else np.zeros(len(_POINTS))
    return {name: float(value) for name, value in zip(_POINTS, points, strict=True)}
