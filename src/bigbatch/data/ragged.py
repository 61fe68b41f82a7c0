"""Gathering rows of ragged columns, kept as flat arrays with offsets, without a loop over their elements."""

from __future__ import annotations

import numpy as np

from bigbatch.records import Targets, TokenTable


def flat_indexes(offsets: np.ndarray, rows_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the elements of some rows lie in the flat array, row after row.

    Args:
        offsets: (rows + 1,) int64; row r is flat[offsets[r] : offsets[r + 1]].
        rows_B: (B,) row numbers, in any order, repeats allowed.

    Returns:
        (sum of lengths,) int64 indexes into the flat array, and (B,) int64 lengths.
    """
    starts_B = offsets[rows_B]
    lengths_B = offsets[rows_B + 1] - starts_B
    return np.arange(int(lengths_B.sum())) + np.repeat(starts_B - starts_of(lengths_B), lengths_B), lengths_B


def starts_of(lengths_B: np.ndarray) -> np.ndarray:
    """Where each row starts when rows of these lengths lie one behind the other (B,) int64."""
    return np.cumsum(lengths_B, dtype=np.int64) - lengths_B


def targets_of(table: TokenTable, rows_B: np.ndarray) -> Targets:
    """Targets of all units of these rows, row after row."""
    units, _ = flat_indexes(table.unit_offsets, rows_B)
    return Targets(
        values=table.values[units],
        weights=table.weights[units],
        extras={name: values[units] for name, values in table.extras.items()},
    )


def counted_units(table: TokenTable) -> np.ndarray:
    """(samples,) int64: units of each sample whose weight is not 0."""
    units_B = np.diff(table.unit_offsets)
    found_B = np.zeros(len(table), np.int64)
    filled_B = units_B > 0
    if filled_B.any():
        counts_U = np.asarray(table.weights) > 0
        found_B[filled_B] = np.add.reduceat(counts_U, table.unit_offsets[:-1][filled_B], dtype=np.int64)
    return found_B


def all_targets(table: TokenTable) -> Targets:
    """Targets of all units of a table, in order; nothing is copied."""
    return Targets(values=table.values, weights=table.weights, extras=table.extras)
