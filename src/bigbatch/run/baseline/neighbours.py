"""The baseline of masked language models: the token between these two neighbours, learnt from the unmasked text.

::

    p(token | left, right)  over  1/2 p(token | left) + 1/2 p(token | right)  over  p(token)  over  1 / ids

each interpolated with the next (`run.baseline.counts`). A neighbour that is masked itself tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bigbatch.run.baseline.counts import counted
from bigbatch.run.baseline.model import Baseline, Split, spread
from bigbatch.samples import Table

_MOST_UNITS = 3_000_000
_AT_A_TIME = 500_000


def mlm_baselines(train: Split, *, vocabulary: int) -> Iterator[Baseline]:
    """The most frequent token, and the one between these neighbours; `vocabulary`: ids that the model can predict."""
    size = max(vocabulary, int(np.max(train.table.ids, initial=0)) + 1)
    units = len(train.table.reads)
    if not units:
        return
    kept = spread(units, _MOST_UNITS)
    left_U, right_U, nothing_U = _around(train.table, kept)
    tokens_U = np.asarray(train.table.values)[kept].astype(np.int64)
    alone = counted(nothing_U, tokens_U, size)
    behind, before = counted(left_U, tokens_U, size), counted(right_U, tokens_U, size)
    between = counted(left_U * size + right_U, tokens_U, size)

    def unigram(split: Split) -> np.ndarray:
        values_U = np.asarray(split.table.values).astype(np.int64)
        share_U, _, best_U = alone.mixed(np.zeros_like(values_U), values_U, np.full(len(values_U), 1 / size))
        return np.column_stack([-np.log(share_U), best_U == values_U])

    def neighbours(split: Split) -> np.ndarray:
        found = [np.empty((0, 2))]
        for first in range(0, len(split.table.reads), _AT_A_TIME):
            units_U = np.arange(first, min(first + _AT_A_TIME, len(split.table.reads)))
            left_U, right_U, nothing_U = _around(split.table, units_U)
            values_U = np.asarray(split.table.values)[units_U].astype(np.int64)
            share_U, _, guess_U = alone.mixed(nothing_U, values_U, np.full(len(values_U), 1 / size))
            after_U, left_known_U, of_left_U = behind.mixed(left_U, values_U, share_U)
            ahead_U, right_known_U, of_right_U = before.mixed(right_U, values_U, share_U)
            both_U, known_U, of_both_U = between.mixed(
                left_U * size + right_U, values_U, (after_U + ahead_U) / 2
            )
            guess_U = np.where(right_known_U, of_right_U, guess_U)
            guess_U = np.where(left_known_U, of_left_U, guess_U)
            guess_U = np.where(known_U, of_both_U, guess_U)
            found.append(np.column_stack([-np.log(both_U), guess_U == values_U]))
        return np.concatenate(found)

    note = f"counted {len(kept):,} of {units:,} tokens" if len(kept) < units else ""
    yield Baseline(name="most_frequent_token", outputs=unigram, note=note)
    yield Baseline(name="neighbours", outputs=neighbours, note=note)


def _around(table: Table, units_U: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens left and right of some units as they are shown, 0 beyond either end of a sample; and a context that is
    always the same.
    """
    samples_U = np.searchsorted(table.unit_offsets, units_U, side="right") - 1
    place_U = table.token_offsets[samples_U] + np.asarray(table.reads)[units_U]
    first_U, last_U = table.token_offsets[samples_U], table.token_offsets[samples_U + 1] - 1
    ids = np.asarray(table.ids)
    left_U = np.where(place_U > first_U, ids[np.maximum(place_U - 1, first_U)], 0).astype(np.int64)
    right_U = np.where(place_U < last_U, ids[np.minimum(place_U + 1, last_U)], 0).astype(np.int64)
    return left_U, right_U, np.zeros(len(units_U), np.int64)
