"""Contacts: which pairs of letters of a sequence are close in its fold, and how well the surest ones are predicted.

::

    precision@L     the share of contacts among the L surest pairs of a chain of L letters, at least `separation` apart
    precision@L/2   among its L/2 surest
    long_…          of pairs at least 24 apart

each the mean over chains; a chain without a pair that far apart is in none. What is known of fewer pairs than are asked
for is taken whole. Equal scores stand in the order of the pairs.

The score of a pair i < j is

    s_ij = sum over k of Re(a_ik conj(b_jk) exp(i w_k (j - i))) / sqrt(K) - 3

where a_i and b_j are K complex numbers that the model gives of each letter, and w_k = 1000^(-k / K): letters and how
far they are apart decide together, as attention with rotary positions (Su et al. 2021) has it. -3: without any
knowledge one pair in 21 is a contact.

Reference:
    Rao et al. 2021, Transformer protein language models are unsupervised structure learners: the figures.

Shapes: U units (letters), C outputs a unit (4 K), L letters of a chain, N chains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.sums import Parts, add_parts, exact_parts, total
from bigbatch.samples import Predictions, Targets

FIRST, PLACE, PARTNER = 0, slice(1, 4), 4
"""Columns of a letter's values: 1 in front of a chain; where it is (Å); how far behind it its partner is, 0: none."""
LONG = 24
"""Letters between the partners of a long-range pair."""
OFFSET = -3.0
_LONGEST_WAVE = 1000.0

State = tuple[int, Parts]
"""Chains that count, and the exact sum of their values."""


def frequencies(channels: int) -> np.ndarray:
    """(K,) float64: w_k."""
    return _LONGEST_WAVE ** (-np.arange(channels) / channels)


def pair_scores(outputs_LC: np.ndarray) -> np.ndarray:
    """(L, L) float64 scores of pairs i < j; the rest means nothing.

    Args:
        outputs_LC: of a chain.
    """
    a_LK, b_LK = (
        half[:, 0] + 1j * half[:, 1]
        for half in np.asarray(outputs_LC, np.float64).reshape(len(outputs_LC), 2, 2, -1).swapaxes(0, 1)
    )
    waves_K = frequencies(a_LK.shape[1])
    turns_LK = np.exp(-1j * np.arange(len(outputs_LC))[:, None] * waves_K)
    return ((a_LK * turns_LK) @ (b_LK * turns_LK).conj().T).real / np.sqrt(len(waves_K)) + OFFSET


def scores_of(predictions: Predictions, part: slice) -> np.ndarray:
    """(L, L) scores of a chain's pairs i < j, from what a model gave, or from how far apart they are.

    Args:
        predictions: `contacts`: outputs of each letter; `separations`: (U, D) scores of pairs 1, 2, … D apart.
        part: the chain's units.
    """
    if predictions.kind == "contacts":
        return pair_scores(predictions.scores[part])
    length, most = part.stop - part.start, predictions.scores.shape[1]
    apart_LL = np.arange(length)[None, :] - np.arange(length)[:, None]
    return predictions.scores[part.start][np.clip(apart_LL, 1, most) - 1]


def chains_of(values_UC: np.ndarray) -> Iterator[slice]:
    """The units of each chain."""
    starts = [*np.flatnonzero(np.asarray(values_UC)[:, FIRST] > 0).tolist(), len(values_UC)]
    for begin, end in pairwise(starts):
        yield slice(begin, end)


def contacts_of(values_LC: np.ndarray, distance: float) -> np.ndarray:
    """(L, L) bool: which letters touch.

    Args:
        values_LC: of a chain.
        distance: Å below which two places touch.
    """
    points_L3 = np.asarray(values_LC[:, PLACE], np.float64)
    gaps_LL3 = points_L3[:, None] - points_L3[None, :]
    paired_L = np.asarray(values_LC[:, PARTNER])
    apart_LL = np.arange(len(paired_L))[None, :] - np.arange(len(paired_L))[:, None]
    close_LL = (gaps_LL3**2).sum(-1) < distance**2  # NaN is not close
    return close_LL | ((paired_L[:, None] == apart_LL) & (apart_LL != 0))


def candidates(weights_L: np.ndarray, separation: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs i < j of known letters, at least so far apart, in order: (pairs,) of each."""
    known_L = np.asarray(weights_L) > 0
    firsts, seconds = np.triu_indices(len(known_L), separation)
    kept = known_L[firsts] & known_L[seconds]
    return firsts[kept], seconds[kept]


def surest(scores_LL: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], most: int) -> np.ndarray:
    """Numbers of the surest of some pairs, the surest first; equal ones in their order.

    Args:
        scores_LL: of a chain.
        pairs: (pairs,) first letters and (pairs,) second ones.
        most: how many.
    """
    return np.argsort(-scores_LL[pairs], kind="stable")[:most]


@dataclass(frozen=True, kw_only=True)
class ContactMetric:
    """Precision of the surest pairs, the mean over chains."""

    name: str
    share: int
    """1: as many pairs as letters; 2: half as many, …"""
    separation: int
    distance: float
    larger_is_better = True
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> State:
        """Of whole chains, as `per_chain` takes them."""
        values_N = self.per_chain(predictions, targets)
        return len(values_N), exact_parts(values_N)

    def per_chain(self, predictions: Predictions, targets: Targets) -> np.ndarray:
        """(N,) float64: of each chain that has such pairs.

        Args:
            predictions: as `scores_of` takes them.
            targets: of whole chains.
        """
        found = []
        values, weights = np.asarray(targets.values), np.asarray(targets.weights)
        for part in chains_of(values):
            pairs = candidates(weights[part], self.separation)
            most = min(max(1, (part.stop - part.start) // self.share), len(pairs[0]))
            if most:
                kept = surest(scores_of(predictions, part), pairs, most)
                touch = contacts_of(values[part], self.distance)[pairs]
                found.append(touch[kept].sum() / most)
        return np.array(found, np.float64)

    def merge(self, left: State, right: State) -> State:
        """Of both."""
        return left[0] + right[0], add_parts(left[1], right[1])

    def value(self, state: State) -> float:
        """The mean."""
        chains, parts = state
        return total(parts) / chains if chains else Undefined(f"no chain has pairs {self.separation} apart")


def contact_metrics(separation: int, distance: float) -> dict[str, ContactMetric]:
    """Every metric of contacts by name.

    Args:
        separation: letters between the partners of a pair, at least.
        distance: Å below which two places touch.
    """
    return {
        name: ContactMetric(name=name, share=share, separation=apart, distance=distance)
        for front, apart in (("", separation), ("long_", max(LONG, separation)))
        for share in (1, 2, 5)
        for name in [f"{front}precision@L" + ("" if share == 1 else f"/{share}")]
    }
