"""A split's units, some at a time: what is judged together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bigbatch.data.packs import end_of_group
from bigbatch.samples import Table, Targets

CHUNK_UNITS = 65_536
"""Units that are decoded at a time; bounds memory, changes no bit."""


def targets_of(table: Table, part: slice) -> Targets:
    """Of the units of a part, as arrays."""
    return Targets(
        values=np.asarray(table.values[part]),
        weights=np.asarray(table.weights[part]),
        extras={name: np.asarray(values[part]) for name, values in table.extras.items()},
    )


def whole_rows(table: Table, most_units: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Units of whole rows, and of whole groups of rows, at most `CHUNK_UNITS` unless one has more; and the rows that
    they belong to, from 0.
    """
    offsets = np.asarray(table.unit_offsets)
    first_row = 0
    while first_row < len(table):
        most = int(offsets[first_row]) + (most_units or CHUNK_UNITS)
        end_row = max(int(np.searchsorted(offsets, most, side="right")) - 1, first_row + 1)
        end_row = end_of_group(table, end_row)
        counts = np.diff(offsets[first_row : end_row + 1])
        if counts.any():
            part = slice(int(offsets[first_row]), int(offsets[end_row]))
            yield part, np.repeat(np.arange(len(counts)), counts)
        first_row = end_row
