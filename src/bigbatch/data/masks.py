"""Which tokens are masked: a pure function of (seed, epoch, sample, position), never of how a batch is cut.

    state(sample) = splitmix64 chain of (seed, stream, epoch, sample)
    draw k of token t = output 3 t + k of the generator started at that state, as a fraction in [0, 1)

Draw 0 chooses the token (with `whole_word`, that of the word's first piece chooses all its pieces), draw 1 says what
becomes of it, draw 2 which token replaces it.

Shapes: B samples, T tokens, U units (tokens that may be masked), M masked tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigbatch.data.order import fractions_at
from bigbatch.samples import Table, flat_indexes, offsets_of, starts_of

TRAINING = 0x3A5C
EVALUATION = 0xE7A1
"""Streams of random numbers: apart from each other and from the order's, which start from the same seed."""
WORD = "word"
"""Name of the extra that holds the position of the first piece of each unit's word."""
_DRAWS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Rates:
    """How much is masked, and with what."""

    probability: float
    """Of a token (or word) to be chosen."""
    mask_share: float
    """Of the chosen tokens: replaced by the mask."""
    random_share: float
    """Of the chosen tokens: replaced by a random one; the rest stay as they are."""
    mask_id: int
    ordinary_ids: np.ndarray
    """Ids that a random token is drawn from."""


def masked_rows(table: Table, rows_B: np.ndarray, states_B: np.ndarray, rates: Rates) -> Table:
    """Rows of a table with tokens masked; the masked ones are the units of what comes back.

    Every sample that has a token to mask has at least one masked: where none was chosen, the one with the lowest draw
    is (with its whole word), as BERT's own data has it: no sample that can teach something is read for nothing. One of
    special tokens alone has no unit, and a batch of such samples is an update in which nothing counts
    (`Update.empty`).

    Args:
        table: the split; its units are the tokens that may be masked.
        rows_B: (B,) row numbers.
        states_B: (B,) of `sample_states`.
        rates: what to do.
    """
    tokens_T, lengths_B = flat_indexes(table.token_offsets, rows_B)
    units_U, per_sample_B = flat_indexes(table.unit_offsets, rows_B)
    extras, segments = table.extras, table.segments
    ids_T = np.array(table.ids[tokens_T])
    reads_U = table.reads[units_U].astype(np.int64)
    groups_U = extras[WORD][units_U].astype(np.int64) if WORD in extras else reads_U
    states_U = np.repeat(states_B, per_sample_B)
    chosen_U = _chosen(_draw(states_U, groups_U, 0), per_sample_B, rates.probability)
    places_M = (reads_U + np.repeat(starts_of(lengths_B), per_sample_B))[chosen_U]
    ids_T[places_M] = _replaced(ids_T[places_M], states_U[chosen_U], reads_U[chosen_U], rates)
    masked_U = units_U[chosen_U]
    sample_U = np.repeat(np.arange(len(rows_B)), per_sample_B)
    counts_B = np.bincount(sample_U[chosen_U], minlength=len(rows_B))
    return Table.of_tokens(
        ids=ids_T,
        token_offsets=offsets_of(lengths_B),
        segments=None if segments is None else segments[tokens_T],
        reads=reads_U[chosen_U].astype(np.int32),
        unit_offsets=offsets_of(counts_B),
        values=table.values[masked_U],
        weights=table.weights[masked_U],
        extras={name: values[masked_U] for name, values in extras.items() if name != WORD},
        truncated_samples=table.truncated_samples,
    )


def _chosen(draws_U: np.ndarray, per_sample_B: np.ndarray, probability: float) -> np.ndarray:
    """(U,) bool: drawn below the probability, or the sample's lowest."""
    filled_B = per_sample_B > 0
    lowest_B = np.zeros(len(per_sample_B))
    if filled_B.any():
        lowest_B[filled_B] = np.minimum.reduceat(draws_U, starts_of(per_sample_B)[filled_B])
    return (draws_U < probability) | (draws_U <= np.repeat(lowest_B, per_sample_B))


def _replaced(ids_M: np.ndarray, states_M: np.ndarray, reads_M: np.ndarray, rates: Rates) -> np.ndarray:
    fate_M = _draw(states_M, reads_M, 1)
    picks_M = (_draw(states_M, reads_M, 2) * len(rates.ordinary_ids)).astype(np.int64)
    random_M = fate_M < rates.mask_share + rates.random_share
    others_M = np.where(random_M, rates.ordinary_ids[picks_M], ids_M)
    return np.where(fate_M < rates.mask_share, rates.mask_id, others_M)


def _draw(states_N: np.ndarray, positions_N: np.ndarray, number: int) -> np.ndarray:
    """(N,) float64 in [0, 1)."""
    return fractions_at(states_N, _DRAWS * positions_N + number)
