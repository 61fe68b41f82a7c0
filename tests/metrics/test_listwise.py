"""Figures of ranked candidates, number by number, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bigbatch.errors import RecipeError
from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.listwise import list_metric
from bigbatch.samples import Predictions, Targets


def of(scores: list[list[float]], relevance: list[list[float]]) -> tuple[Predictions, Targets]:
    flat = np.array([score for own in scores for score in own])
    values = np.array([(y, query) for query, own in enumerate(relevance) for y in own], np.float64)
    predictions = Predictions(kind="language", scores=flat[:, None], probabilities=None, values=flat)
    return predictions, Targets(values=values, weights=np.ones(len(flat)))


def figure(name: str, scores: list[list[float]], relevance: list[list[float]]) -> float:
    metric = list_metric(name)
    parts = [metric.add(*of([one], [two])) for one, two in zip(scores, relevance, strict=True)]
    whole, state = metric.add(*of(scores, relevance)), parts[0]
    for part in parts[1:]:
        state = metric.merge(state, part)
    assert state == whole
    return metric.value(whole)


def test_figures_by_hand():
    scores, relevance = [[3, 2, 1], [1, 2, 3], [5, 4]], [[0, 1, 1], [1, 0, 0], [0, 0]]
    assert figure("mrr@10", scores, relevance) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert figure("mrr@2", scores, relevance) == pytest.approx((1 / 2 + 0) / 2)
    assert figure("map", scores, relevance) == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1 / 3) / 2)
    assert figure("accuracy", scores, relevance) == 0
    best = 1 + 1 / math.log2(3)
    assert figure("ndcg@3", scores, relevance) == pytest.approx(
        ((1 / math.log2(3) + 1 / 2) / best + 1 / 2) / 2
    )
    # Equal scores help nobody.
    assert figure("accuracy", [[1, 1]], [[1, 0]]) == 0 and figure("accuracy", [[2, 1]], [[1, 0]]) == 1
    metric = list_metric("map")
    assert math.isnan(metric.value(metric.add(*of([[1, float("nan")]], [[1, 0]]))))
    assert isinstance(metric.value(metric.add(*of([[1, 2]], [[0, 0]]))), Undefined)


def test_as_scikit_learn_counts():
    from sklearn.metrics import average_precision_score, ndcg_score

    random = np.random.default_rng(0)
    for _ in range(20):
        scores, relevance = random.normal(size=9), random.integers(0, 4, 9)
        relevance[0] = 1
        expected = ndcg_score([2.0**relevance - 1], [scores], k=5)
        assert figure("ndcg@5", [scores.tolist()], [relevance.tolist()]) == pytest.approx(expected)
        expected = average_precision_score(relevance > 0, scores)
        assert figure("map", [scores.tolist()], [relevance.tolist()]) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["recall@1", "ndcg", "mrr@0", "f1"])
def test_other_names_are_refused(name):
    with pytest.raises(RecipeError, match="unknown metric .* for ranking"):
        list_metric(name)
