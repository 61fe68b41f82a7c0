"""Samples of two sequences each, sequence by sequence: a prompt with the answer that was chosen, and with another.

The token cache keeps a row's two sequences one behind the other, the chosen one first; its units are the tokens of the
answers. What runs through the model is a table of sequences, in which the two of a row stay together (`Table.groups`),
so that their loss can be told wherever they are computed.

Shapes: B rows, S = 2 B sequences of these rows, U units.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bigbatch.samples import TOKENS, UNITS, Stream, Table, flat_indexes, offsets_of

CHOSEN, REJECTED = 0, 1
TOKEN, SIDE = 0, 1
"""Columns of a cached unit's values: the token that is predicted, and of which answer it is."""
PAIR = 2
"""Column that a table of sequences adds: number of the row in that table."""


def side_table(table: Table, rows_B: np.ndarray) -> Table:
    """The sequences of some rows, each as a sample, row after row.

    Args:
        table: rows of two sequences, each with a unit at least; the last unit of a sequence predicts its last token.
        rows_B: (B,) row numbers, repeats allowed.

    Returns:
        A table of S samples; `values` (U, 3) int32 are token, side, and number of the row in `rows_B`; further columns
        of units as they are.
    """
    tokens, units = table[TOKENS].load(), table[UNITS].load()
    tokens_T, lengths_B = flat_indexes(tokens.offsets, rows_B)
    units_U, counts_B = flat_indexes(units.offsets, rows_B)
    pairs_U = np.repeat(np.arange(len(rows_B), dtype=np.int64), counts_B)
    columns = {name: column[units_U] for name, column in units.columns.items()}
    sides_U = columns["values"][:, SIDE].astype(np.int64)
    counts_S = np.bincount(2 * pairs_U + sides_U, minlength=2 * len(rows_B))
    # Where a sequence ends is behind the token that its last unit predicts.
    last_B = offsets_of(counts_S)[1::2] - 1
    chosen_B = columns["at"][last_B].astype(np.int64) + 2
    columns["at"] = columns["at"] - (sides_U * chosen_B[pairs_U]).astype(np.int32)
    columns["values"] = np.column_stack([columns["values"], pairs_U.astype(np.int32)])
    return replace(
        table,
        streams={
            TOKENS: replace(
                tokens,
                columns={name: column[tokens_T] for name, column in tokens.columns.items()},
                offsets=offsets_of(np.column_stack([chosen_B, lengths_B - chosen_B]).reshape(-1)),
            ),
            UNITS: Stream(columns=columns, offsets=offsets_of(counts_S)),
        },
        groups=np.repeat(np.arange(len(rows_B), dtype=np.int64), 2),
    )


def sequence_starts(values: np.ndarray) -> np.ndarray:
    """(S,) int64: the first unit of each sequence, of units (U, 2 or 3) that lie pair by pair, the chosen one first."""
    return np.flatnonzero(np.any(np.diff(values[:, SIDE:], axis=0, prepend=-1) != 0, axis=1))
