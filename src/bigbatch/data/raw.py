"""Raw: a source whose columns still have their own names and types. What every reader returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

Column = pa.ChunkedArray | list[Any]
"""Arrow where the source has types, a list of Python values where every row may have its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Raw:
    """One file or object, its columns loaded only when asked for."""

    name: str
    """What messages call it: the path as typed; empty for objects."""
    columns: tuple[str, ...]
    rows: int
    load: Callable[[Sequence[str]], Mapping[str, Column]]
    """The named columns."""
    numbers: np.ndarray | None = None
    """(rows,) int64 row numbers as people count them; None counts from `first_number`."""
    first_number: int = 1
    """2 when the source has a header row, which people count too."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For columns that hold class ids with known names (`datasets.ClassLabel`)."""

    @property
    def row_numbers(self) -> np.ndarray:
        """(rows,) int64."""
        return np.arange(self.rows) + self.first_number if self.numbers is None else self.numbers

    def where(self, row: int) -> str:
        """`tweets.csv:812`, or `row 812` for an object."""
        number = int(self.row_numbers[row])
        return f"{self.name}:{number}" if self.name else f"row {number}"


def from_table(name: str, table: pa.Table, **about: Any) -> Raw:
    """A Raw over an Arrow table in memory."""
    return Raw(
        name=name,
        columns=tuple(table.column_names),
        rows=table.num_rows,
        load=lambda names: {column: table.column(column) for column in names},
        **about,
    )


def from_dicts(name: str, rows: Sequence[Mapping[str, Any]], **about: Any) -> Raw:
    """A Raw over dictionaries; a key that a row lacks is None there."""
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Raw(
        name=name,
        columns=columns,
        rows=len(rows),
        load=lambda names: {column: [row.get(column) for row in rows] for column in names},
        **about,
    )
