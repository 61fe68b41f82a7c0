"""Figures of preferences, from the two rewards of each pair. Sums are exact: no cut can change them.

::

    accuracy = pairs whose chosen answer has the larger reward / pairs; equal rewards count half
    margin   = mean of (reward of the chosen answer - reward of the rejected one)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bigbatch.data.sides import sequence_starts
from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.sums import Parts, add_parts, exact_parts, total
from bigbatch.samples import Predictions, Targets

State = tuple[int, Parts]
"""Pairs that count, and the exact sum of their values."""


@dataclass(frozen=True, kw_only=True)
class PairMetric:
    """The mean over pairs of a number each."""

    name: str
    of_margins: Callable[[np.ndarray], np.ndarray]
    """(P,) margins of rewards -> a number each (P,)."""
    larger_is_better: bool = True
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> State:
        """Of whole pairs, as `per_pair` takes them."""
        values_P = self.per_pair(predictions, targets)
        return len(values_P), exact_parts(values_P)

    def per_pair(self, predictions: Predictions, targets: Targets) -> np.ndarray:
        """(P,) float64: the number of each pair that counts.

        Args:
            predictions: `scores` (U, 1) are each unit's part of its sequence's reward.
            targets: of whole pairs, whose units lie sequence by sequence.
        """
        starts_S = sequence_starts(np.asarray(targets.values))
        if not len(starts_S):
            return np.empty(0)
        rewards_S = np.add.reduceat(predictions.scores[:, 0], starts_S)
        counts_P = np.asarray(targets.weights)[starts_S[0::2]] > 0
        return self.of_margins((rewards_S[0::2] - rewards_S[1::2])[counts_P])

    def merge(self, left: State, right: State) -> State:
        """Of both."""
        return left[0] + right[0], add_parts(left[1], right[1])

    def value(self, state: State) -> float:
        """The mean."""
        pairs, parts = state
        return total(parts) / pairs if pairs else Undefined("there is no pair")


def preferred(margins_P: np.ndarray) -> np.ndarray:
    """1 where the chosen answer has the larger reward, 0 where the other one has, 1/2 where both have the same."""
    return np.where(np.isnan(margins_P), np.nan, (np.sign(margins_P) + 1) / 2)


def pair_metrics() -> dict[str, PairMetric]:
    """Every metric of preferences by name."""
    return {
        "accuracy": PairMetric(name="accuracy", of_margins=preferred),
        "margin": PairMetric(name="margin", of_margins=lambda margins_P: margins_P),
    }
