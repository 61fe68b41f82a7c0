"""How often words follow contexts, smoothed by absolute discounting and interpolated with what a shorter context says.

::

    p(word | context) = (max(count - D, 0) + D kinds(context) p_shorter(word)) / total(context),   D = n1 / (n1 + 2 n2)

`kinds` is how many different words were seen there, n1 and n2 how many pairs were seen once and twice (Ney, Essen and
Kneser 1994).
"""

from __future__ import annotations

import numpy as np


class Counts:
    """Counts of (context, word) pairs."""

    def __init__(self, keys_P: np.ndarray, counts_P: np.ndarray, words: int) -> None:
        """From distinct pairs.

        Args:
            keys_P: context * words + word, ascending, int64.
            counts_P: how often; pairs of 0 only have a number.
            words: how many there are.
        """
        self.keys_P, self.words = keys_P, words
        self._counts_P = counts_P.astype(np.float64)
        contexts_P = keys_P // words
        first_P = np.ones(len(keys_P), bool)
        first_P[1:] = contexts_P[1:] != contexts_P[:-1]
        starts_X = np.flatnonzero(first_P)
        self._contexts_X = contexts_P[starts_X]
        self._total_X = np.add.reduceat(self._counts_P, starts_X) if len(starts_X) else np.empty(0)
        self._kinds_X = (
            np.add.reduceat((counts_P > 0).astype(np.float64), starts_X) if len(starts_X) else np.empty(0)
        )
        once, twice = int((counts_P == 1).sum()), int((counts_P == 2).sum())
        self._discount = once / (once + 2 * twice) if once and twice else 0.5
        order = np.lexsort((-self._counts_P, contexts_P))
        self._best_X = (keys_P % words)[order[starts_X]]

    def number(self, contexts_T: np.ndarray, words_T: np.ndarray) -> np.ndarray:
        """Number of each pair (T,) int64; -1 for one that is unknown, or whose context is -1."""
        return _found(self.keys_P, np.where(contexts_T < 0, -1, contexts_T * self.words + words_T))

    def mixed(
        self, contexts_T: np.ndarray, words_T: np.ndarray, shorter_T: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probabilities of words after contexts (T,), given those after shorter ones; which contexts are known, and the
        word that was most frequent there.

        Args:
            contexts_T: (T,) int64 numbers of contexts; -1: one that is not known.
            words_T: (T,) int64 numbers of the words that followed.
            shorter_T: (T,) fp64 probability of each word after a shorter context, which unseen pairs fall back to.

        Returns:
            (T,) fp64 probability of each word; (T,) bool whether its context is known; (T,) int64 the word that was
            most frequent there, -1 where it is not known.
        """
        place_T = _found(self._contexts_X, contexts_T)
        known_T = place_T >= 0
        known_T[known_T] = self._total_X[place_T[known_T]] > 0
        pair_T = self.number(contexts_T, words_T)
        count_T = np.where(pair_T >= 0, self._counts_P[pair_T], 0.0) if len(self.keys_P) else 0.0 * shorter_T
        found_T, best_T = shorter_T.copy(), np.full(len(words_T), -1)
        at = place_T[known_T]
        spared_T = self._discount * self._kinds_X[at] * shorter_T[known_T]
        found_T[known_T] = (np.maximum(count_T[known_T] - self._discount, 0) + spared_T) / self._total_X[at]
        best_T[known_T] = self._best_X[at]
        return found_T, known_T, best_T


def counted(contexts_T: np.ndarray, words_T: np.ndarray, words: int) -> Counts:
    """The counts of a stream of pairs.

    Args:
        contexts_T: (T,) int64 numbers of contexts.
        words_T: (T,) int64 numbers of the words that followed.
        words: how many words there are.
    """
    return Counts(*np.unique(contexts_T * words + words_T, return_counts=True), words)


def _found(sorted_keys: np.ndarray, keys_T: np.ndarray) -> np.ndarray:
    """Where each key stands, -1 for those that do not."""
    if not len(sorted_keys):
        return np.full(len(keys_T), -1)
    place_T = np.minimum(np.searchsorted(sorted_keys, keys_T), len(sorted_keys) - 1)
    return np.where(sorted_keys[place_T] == keys_T, place_T, -1)
