"""A share of the training rows for validation: stratified by label, fixed by `seed.data`; or the last rows."""

from __future__ import annotations

import numpy as np

from bigbatch.data.order import mixed, splitmix64
from bigbatch.data.tables import DataTable
from bigbatch.files.problems import one_error
from bigbatch.recipe.inputs import held_out_of

_STREAM = 0x5711
"""Keeps the split's random numbers apart from the order's, which start from the same seed."""


def stratified_share(
    table: DataTable, share: float, seed: int, role: str | None = "label"
) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows into training and validation.

    Every class gives round(share x its rows) rows, at least one when it has two or more; which ones is decided by
    splitmix64(seed, row). A class with one row stays in training. Several labels a row: the set is the class.
    Numbers and missing labels: no strata. Each source of a mixture gives its own share.

    Args:
        table: all rows.
        share: above 0 and below 1.
        seed: `seed.data`.
        role: the label column; None for no strata.

    Returns:
        Row numbers of training and of validation, int64, each ascending.

    Raises:
        DataError: the share leaves nothing to validate on, or nothing to train on.
    """
    strata = _strata(table, "labels" if table.tokenised and role is not None else role)
    if table.sources:
        source = np.searchsorted(table.sources, np.arange(len(table)), side="right") - 1
        strata = np.unique(source * (int(strata.max(initial=0)) + 1) + strata, return_inverse=True)[1]
    drawn = splitmix64(mixed(seed, _STREAM), count=len(table))
    # Rows by stratum and, within it, by random number: each stratum's first rows are its share.
    order = np.lexsort((drawn, strata))
    counts = np.bincount(strata, minlength=1)
    sizes, which = np.unique(counts, return_inverse=True)
    taken = np.array([held_out_of(size, share) for size in sizes.tolist()], np.int64)[which]
    rank = np.arange(len(table)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(table), bool)
    chosen[order] = rank < np.repeat(taken, counts)
    train, validation = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    return _checked(train, validation, share)


def last_share(table: DataTable, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The same of rows that are joined, whose neighbours belong together: the last ones are held out, of each source.

    Raises:
        DataError: as `stratified_share`.
    """
    held_out = np.zeros(len(table), bool)
    firsts = table.sources or (0,)
    for first, end in zip(firsts, [*firsts[1:], len(table)], strict=True):
        held_out[end - held_out_of(end - first, share) : end] = True
    return _checked(np.flatnonzero(~held_out), np.flatnonzero(held_out), share)


def _checked(train: np.ndarray, validation: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    if not len(train) or not len(validation):
        rows = len(train) + len(validation)
        left = f"{len(train)} to train on and {len(validation)} to validate on"
        what = f"a share of {share:g} of {rows} rows leaves {left}; name a file instead"
        raise one_error("", "data.validation", what)
    return train, validation


def _strata(table: DataTable, role: str | None) -> np.ndarray:
    """(rows,) int64 number of each row's class, in order of first appearance."""
    if role is None or role not in table.rows.column_names:
        return np.zeros(len(table), np.int64)
    values = table.rows.column(role).to_pylist()
    if any(isinstance(value, float) for value in values):
        return np.zeros(len(table), np.int64)
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(repr(value), len(numbers)) for value in values], np.int64)
