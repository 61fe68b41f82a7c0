"""Figures of ranked lists, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bigbatch.errors import RecipeError
from bigbatch.metrics.recommend import recommend_metric
from bigbatch.samples import Predictions, Targets


def figure(name: str, parts: list[np.ndarray], weights: list[float] | None = None) -> float:
    """Of units given in parts: (nats, rank, listed …) each."""
    metric, state, done = recommend_metric(name, 8), None, 0
    for kept in parts:
        own = np.ones(len(kept)) if weights is None else np.array(weights[done : done + len(kept)])
        done += len(kept)
        predictions = Predictions(kind="language", scores=kept, probabilities=None, values=kept[:, 1] <= 1)
        found = metric.add(predictions, Targets(values=np.zeros(len(kept), np.int64), weights=own))
        state = found if state is None else metric.merge(state, found)
    return metric.value(state)


KEPT = np.array([[1.0, 1, 3, 4], [2.0, 3, 3, 5], [3.0, 11, 4, -1], [0.5, 2, 6, 7]])


def test_figures():
    for parts in ([KEPT], [KEPT[:1], KEPT[1:]], [KEPT[:3], KEPT[3:]]):
        assert (
            figure("hr@1", parts) == 0.25 and figure("hr@2", parts) == 0.5 and figure("hr@10", parts) == 0.75
        )
        assert figure("ndcg@2", parts) == pytest.approx((1 + 1 / math.log2(3)) / 4)
        assert figure("ndcg@11", parts) == pytest.approx(
            (1 + 1 / 2 + 1 / math.log2(12) + 1 / math.log2(3)) / 4
        )
        assert figure("mrr", parts) == pytest.approx((1 + 1 / 3 + 1 / 11 + 1 / 2) / 4)
        assert figure("coverage@1", parts) == 3 / 8 and figure("coverage@2", parts) == 5 / 8
        assert figure("perplexity", parts) == pytest.approx(math.exp(6.5 / 4))
    assert figure("hr@2", [KEPT], [1, 0, 1, 0]) == 0.5 and figure("coverage@2", [KEPT], [1, 0, 1, 0]) == 2 / 8


@pytest.mark.parametrize("name", ["hr", "hr@0", "ndcg@x", "recall@10", "mrr@", "coverage@2000"])
def test_other_names_are_refused(name):
    with pytest.raises(RecipeError, match=r"unknown metric .* \(known: hr@k, ndcg@k"):
        recommend_metric(name, 8)
