"""The baseline of causal language models: an interpolated Kneser-Ney 5-gram on the model's own tokens.

Losses compare, since what is predicted are the same tokens. Shorter contexts count in how many places a word occurs
(Kneser and Ney 1995), not how often. A sample begins with four marks that stand for nothing.

Shapes: T tokens with the marks, U units (predicted tokens).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bigbatch.run.baseline.counts import Counts
from bigbatch.run.baseline.model import Baseline, Split, spread
from bigbatch.samples import Table, flat_indexes

ORDER = 5
_MOST_TOKENS = 3_000_000
"""Of training text that is counted."""
_AT_A_TIME = 200_000
"""Tokens of a split that are scored together."""


def clm_baselines(train: Split, *, vocabulary: int) -> Iterator[Baseline]:
    """That of `task: clm`; `vocabulary`: token ids that the model can predict."""
    table = train.table
    samples = spread(len(table), max(1, int(len(table) * min(1.0, _MOST_TOKENS / max(1, len(table.ids))))))
    model = NGram(table, samples, vocabulary)
    note = f"counted {len(samples):,} of {len(table):,} samples" if len(samples) < len(table) else ""
    yield Baseline(name="5_gram", outputs=lambda split: _outputs(model, split.table), note=note)


class NGram:
    """Counts of every order."""

    def __init__(self, table: Table, samples: np.ndarray, vocabulary: int) -> None:
        self.vocabulary = max(vocabulary, int(np.max(table.ids, initial=0)) + 1)
        tokens_T, real_T = _marked(table, samples, self.vocabulary)
        grams = self._numbered(tokens_T)
        ends = np.flatnonzero(real_T)
        self.orders: list[Counts] = []
        for order, (keys, numbers_T) in enumerate(grams, start=1):
            at = numbers_T[ends]
            if order < ORDER:  # of each longer n-gram its end, once
                _, first = np.unique(grams[order][1][ends], return_index=True)
                at = at[first]
            self.orders.append(Counts(keys, np.bincount(at, minlength=len(keys)), self.vocabulary + 1))

    def _numbered(self, tokens_T: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each order: the distinct n-grams as (shorter one's number, last token), and the number of the one that
        ends at each token.
        """
        found = []
        before_T = np.zeros(len(tokens_T), np.int64)
        for _ in range(ORDER):
            keys, numbers_T = np.unique(before_T * (self.vocabulary + 1) + tokens_T, return_inverse=True)
            found.append((keys, numbers_T.astype(np.int64)))
            before_T = np.concatenate([np.zeros(1, np.int64), found[-1][1][:-1]])
        return found

    def score(self, table: Table, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probability of each token of some samples, and whether it is the one that was to be expected most."""
        tokens_T, real_T = _marked(table, samples, self.vocabulary)
        share_T = np.full(len(tokens_T), 1.0 / self.vocabulary)
        expected_T = np.full(len(tokens_T), -1)
        contexts_T = np.zeros(len(tokens_T), np.int64)
        for counts in self.orders:
            share_T, known_T, best_T = counts.mixed(contexts_T, tokens_T, share_T)
            expected_T = np.where(known_T, best_T, expected_T)
            number_T = counts.number(contexts_T, tokens_T)
            contexts_T = np.concatenate([np.full(1, -1), number_T[:-1]])
        return share_T[real_T], (expected_T == tokens_T)[real_T]


def _marked(table: Table, samples: np.ndarray, mark: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of samples, marks in front of each, and which are tokens."""
    places_T, lengths_S = flat_indexes(table.token_offsets, samples)
    shift_T = np.repeat((ORDER - 1) * np.arange(1, len(samples) + 1), lengths_S)
    whole_T = np.full(len(places_T) + (ORDER - 1) * len(samples), mark, np.int64)
    at_T = np.arange(len(places_T)) + shift_T
    whole_T[at_T] = np.asarray(table.ids)[places_T]
    real_T = np.zeros(len(whole_T), bool)
    real_T[at_T] = True
    return whole_T, real_T


def _outputs(model: NGram, table: Table) -> np.ndarray:
    """(U, 2): nats of each predicted token, and whether it was expected."""
    found = [np.empty((0, 2))]
    first = 0
    while first < len(table):
        limit = table.token_offsets[first] + _AT_A_TIME
        end = max(first + 1, int(np.searchsorted(table.token_offsets, limit, side="right")) - 1)
        samples = np.arange(first, end)
        share_T, hit_T = model.score(table, samples)
        units, counts_S = flat_indexes(table.unit_offsets, samples)
        starts_S = table.token_offsets[samples] - table.token_offsets[first]
        # A unit reads the token before the one that it predicts.
        at_U = np.repeat(starts_S, counts_S) + np.asarray(table.reads)[units] + 1
        found.append(np.column_stack([-np.log(share_T[at_U]), hit_T[at_U]]))
        first = end
    return np.concatenate(found)
