"""Figures of ranked candidates, query by query. Sums are exact: no cut can change them.

::

    ndcg@k    sum of (2^relevance - 1) / log2(1 + rank) up to k, over that of the best order
    mrr@k     1 / rank of the first relevant candidate up to k, else 0
    map       mean over the relevant candidates of the share of relevant ones up to their rank
    accuracy  queries whose first candidate has the largest relevance

Queries without a relevant candidate are left out. Of equal scores the less relevant candidate comes first.
(ndcg: Jarvelin and Kekalainen 2002.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from bigbatch.data.lists import LIST, RELEVANCE
from bigbatch.errors import Problem, RecipeError
from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.sums import Parts, add_parts, exact_parts, total
from bigbatch.samples import Predictions, Targets

State = tuple[int, Parts]
"""Queries that count, and the exact sum of their values."""
USUAL = ("ndcg@10", "mrr@10", "map", "accuracy")
_NAME = re.compile(r"(ndcg|mrr)@([1-9]\d{0,4})|map|accuracy")


@dataclass(frozen=True, kw_only=True)
class ListMetric:
    """The mean over queries of a number each."""

    name: str
    larger_is_better: bool = True
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> State:
        """Of whole queries."""
        values_Q = self.per_query(predictions, targets)
        return len(values_Q), exact_parts(values_Q)

    def per_query(self, predictions: Predictions, targets: Targets) -> np.ndarray:
        """(Q,) float64: the number of each query that has a relevant candidate.

        Args:
            predictions: `scores` (S, 1) of candidates.
            targets: of whole queries, whose units lie query by query.
        """
        values_S2 = np.asarray(targets.values, np.float64)
        counts_S = np.asarray(targets.weights) > 0
        values_S2, scores_S = values_S2[counts_S], predictions.scores[counts_S, 0]
        starts = np.flatnonzero(np.diff(values_S2[:, LIST], prepend=-1))
        found = []
        for own in np.split(np.arange(len(scores_S)), starts[1:]) if len(starts) else []:
            relevance = values_S2[own, RELEVANCE]
            if relevance.max() <= 0:
                continue
            scores = scores_S[own]
            if np.isnan(scores).any():
                found.append(np.nan)
            else:
                found.append(self._of(relevance[np.lexsort((relevance, -scores))]))
        return np.array(found, np.float64)

    def _of(self, ranked: np.ndarray) -> float:
        """Of relevances, best candidate first."""
        what, _, depth = self.name.partition("@")
        if what == "accuracy":
            return float(ranked[0] == ranked.max())
        if what == "ndcg":
            discounts = 1 / np.log2(np.arange(min(int(depth), len(ranked))) + 2)
            gains, best = 2.0**ranked - 1, np.sort(2.0**ranked - 1)[::-1]
            return float(gains[: len(discounts)] @ discounts / (best[: len(discounts)] @ discounts))
        ranks = np.flatnonzero(ranked > 0) + 1
        if what == "mrr":
            return float(1 / ranks[0]) if ranks[0] <= int(depth) else 0.0
        return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))

    def merge(self, left: State, right: State) -> State:
        """Of both."""
        return left[0] + right[0], add_parts(left[1], right[1])

    def value(self, state: State) -> float:
        """The mean."""
        queries, parts = state
        return total(parts) / queries if queries else Undefined("no query has a relevant candidate")


def list_metric(name: str, *, where: str = "recipe") -> ListMetric:
    """The figure of this name.

    Raises:
        RecipeError: there is none.
    """
    if not _NAME.fullmatch(name):
        what = f"unknown metric {name!r} for ranking (known: ndcg@k, mrr@k, map, accuracy)"
        raise RecipeError([Problem(where=where, key="metrics", what=what)])
    return ListMetric(name=name)
