"""Figures of recommendation: where the item that came next stands among all that could have been recommended.

::

    hr@k        share of the items whose rank is at most k
    ndcg@k      1 / log2(1 + rank) of those, else 0: with one right item the ideal list has 1
    mrr         1 / rank
    coverage@k  different items among the first k of all lists / items

The rank counts every item that is not scored lower, so that equal scores help nobody. All items are ranked, none is
sampled (Krichene and Rendle 2020 say why).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from bigbatch.errors import Problem, RecipeError
from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.perplexity import Perplexity, nll_U
from bigbatch.metrics.states import MeanMetric, counted
from bigbatch.protocols import Metric
from bigbatch.samples import Predictions, Targets

NLL, RANK, LISTED = 0, 1, 2
"""Columns of what is kept of a unit: nats, rank of the true item, then the first items of its list."""
USUAL = ("ndcg@10", "hr@10", "mrr", "coverage@10")
DEPTH = 10
MOST_LISTED = 1000
_NAME = re.compile(r"(hr|ndcg|coverage)@([1-9]\d{0,3})|mrr|perplexity")


def _hit(ranks_U: np.ndarray, depth: int) -> np.ndarray:
    return (ranks_U <= depth).astype(np.float64)


def _gain(ranks_U: np.ndarray, depth: int) -> np.ndarray:
    return np.where(ranks_U <= depth, 1 / np.log2(1 + ranks_U), 0.0)


_OF_RANKS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "hr": _hit,
    "ndcg": _gain,
    "mrr": lambda ranks_U, _: 1 / ranks_U,
}


def _per_unit(what: str, depth: int, predictions: Predictions, _targets: Targets) -> np.ndarray:
    return _OF_RANKS[what](predictions.scores[:, RANK], depth)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Share of the items that stand in some list; the state is their ids."""

    name: str
    depth: int
    items: int
    """Of the catalogue."""
    larger_is_better: bool = True
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> np.ndarray:
        """Ids in these lists, ascending."""
        found = counted(predictions, targets)[0].scores[:, LISTED : LISTED + self.depth]
        return np.unique(found[found >= 0].astype(np.int64))

    def merge(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Of both."""
        return np.union1d(left, right)

    def value(self, state: np.ndarray) -> float:
        """The share."""
        return len(state) / self.items if self.items else Undefined("there are no items")


def depth_of(name: str) -> int:
    """Items of a list that a figure looks at; 0: any number, or it is no figure of lists."""
    found = re.fullmatch(r"coverage@(\d+)", name)
    return int(found[1]) if found else 0


def recommend_metric(name: str, items: int, *, where: str = "recipe") -> Metric:
    """The figure of this name.

    Args:
        name: `ndcg@10`.
        items: of the catalogue.
        where: the place that a message names.

    Raises:
        RecipeError: there is none.
    """
    if not _NAME.fullmatch(name) or depth_of(name) > MOST_LISTED:
        what = (
            f"unknown metric {name!r} for recommendation (known: hr@k, ndcg@k, mrr, perplexity, and coverage@k for k "
            f"up to {MOST_LISTED})"
        )
        raise RecipeError([Problem(where=where, key="metrics", what=what)])
    if name == "perplexity":
        return Perplexity(name=name, per_unit=nll_U, larger_is_better=False)
    what, _, depth = name.partition("@")
    if what == "coverage":
        return Coverage(name=name, depth=int(depth), items=items)
    return MeanMetric(name=name, per_unit=partial(_per_unit, what, int(depth or 0)), larger_is_better=True)
