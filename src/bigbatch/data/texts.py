"""Samples of several texts each, text by text, and what the columns of their units say.

The token cache keeps a row's texts one behind the other (`tasks.inputs.joined`). What runs through the model is a table
of texts: each is a sample of its own, so that texts of similar length run together whatever rows they belong to.

Shapes: B rows, K texts of these rows, U units (one a text).
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from bigbatch.samples import Table, flat_indexes, offsets_of, starts_of

QUERY, DOCUMENT, NEGATIVE = 0, 1, 2
"""Roles of texts."""
ROLE, HASH = 0, 1
"""Columns of a cached unit's values: what the text is (index of its role), and 63 bits that tell texts apart."""
OWNER, PLACE = 2, 3
"""Columns that a table of texts adds: number of the row, and of the text, in that table."""


def hash_of(ids: np.ndarray) -> int:
    """63 bits that are the same on every machine; texts of equal tokens are the same text."""
    return (
        int.from_bytes(blake2b(np.ascontiguousarray(ids, "<i4").tobytes(), digest_size=8).digest(), "little")
        >> 1
    )


def text_table(table: Table, rows_B: np.ndarray) -> Table:
    """The texts of some rows, each as a sample with one unit, row after row.

    Returns:
        A table of K samples; `values` (K, 4) int64 are role, hash, number of the row in `rows_B`, and number of the
        text. A unit reads its text's last token; what is pooled otherwise reads others (`model.pooling`).
    """
    tokens_T, _ = flat_indexes(table.token_offsets, rows_B)
    units_U, counts_B = flat_indexes(table.unit_offsets, rows_B)
    owners_U = np.repeat(np.arange(len(rows_B), dtype=np.int64), counts_B)
    ends_U = np.asarray(table.reads)[units_U].astype(np.int64) + 1
    first_U = np.zeros(len(ends_U), bool)
    first_U[starts_of(counts_B)[counts_B > 0]] = True
    before_U = np.where(first_U, 0, np.concatenate([[0], ends_U[:-1]]))
    lengths_U = ends_U - before_U
    places_U, segments = np.arange(len(units_U), dtype=np.int64), table.segments
    return Table.of_tokens(
        ids=np.asarray(table.ids)[tokens_T],
        token_offsets=offsets_of(lengths_U),
        segments=None if segments is None else np.asarray(segments)[tokens_T],
        reads=(lengths_U - 1).astype(np.int32),
        unit_offsets=np.arange(len(units_U) + 1, dtype=np.int64),
        values=np.column_stack([np.asarray(table.values)[units_U], owners_U, places_U]),
        weights=np.asarray(table.weights)[units_U],
        extras={name: np.asarray(column)[units_U] for name, column in table.extras.items()},
        truncated_samples=table.truncated_samples,
    )
