"""Precision of the surest pairs, against lists sorted by hand; scores of numpy and torch are the same."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch

from bigbatch.metrics.contact import contact_metrics, pair_scores, scores_of
from bigbatch.metrics.figures import why_undefined
from bigbatch.samples import Predictions, Targets
from bigbatch.tasks.contact import Contact, pair_tensor

RANDOM = np.random.default_rng(0)
LENGTHS = (30, 7, 45)


def split():
    values = np.zeros((sum(LENGTHS), 5), np.float32)
    values[:, 1:4] = np.cumsum(RANDOM.normal(size=(sum(LENGTHS), 3)) * 2.5, 0)
    values[np.cumsum([0, *LENGTHS[:-1]]), 0] = 1
    weights = (RANDOM.random(sum(LENGTHS)) > 0.1).astype(np.float32)
    values[weights == 0, 1:4] = np.nan
    outputs = RANDOM.normal(size=(sum(LENGTHS), 8))
    return Targets(values=values, weights=weights), outputs


def test_scores_are_the_formula_and_torch_gives_the_same():
    _, outputs = split()
    found = pair_scores(outputs[:9])
    for i in range(9):
        for j in range(i + 1, 9):
            a, b = (outputs[at].reshape(2, 2, 2)[side] for at, side in ((i, 0), (j, 1)))
            wanted = sum(
                (
                    complex(a[0, k], a[1, k])
                    * complex(b[0, k], -b[1, k])
                    * cmath.exp(1j * 1000 ** (-k / 2) * (j - i))
                ).real
                for k in range(2)
            )
            assert found[i, j] == pytest.approx(wanted / math.sqrt(2) - 3, rel=1e-12)
    upper = np.triu_indices(9, 1)
    np.testing.assert_allclose(
        pair_tensor(torch.from_numpy(outputs[:9])).numpy()[upper], found[upper], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("name", "share", "apart"),
    [("precision@L", 1, 6), ("precision@L/5", 5, 6), ("long_precision@L/2", 2, 24)],
)
def test_the_surest_pairs_by_hand(name, share, apart):
    targets, outputs = split()
    kept = Contact(channels=2).decode(outputs)
    metric, by_hand, begin = contact_metrics(6, 8.0)[name], [], 0
    for length in LENGTHS:
        part = slice(begin, begin + length)
        begin += length
        scores, points = pair_scores(outputs[part]), targets.values[part, 1:4].astype(float)
        known = targets.weights[part] > 0
        pairs = [
            (scores[i, j], math.dist(points[i], points[j]) < 8)
            for i in range(length)
            for j in range(i + apart, length)
            if known[i] and known[j]
        ]
        pairs.sort(key=lambda pair: -pair[0])
        chosen = pairs[: max(1, length // share)]
        if chosen:
            by_hand.append(sum(touch for _, touch in chosen) / len(chosen))
    assert metric.value(metric.add(kept, targets)) == pytest.approx(np.mean(by_hand), rel=1e-12)
    # In pieces, chain by chain, the same.
    states, begin = [], 0
    for length in LENGTHS:
        part = slice(begin, begin + length)
        begin += length
        one = Targets(values=targets.values[part], weights=targets.weights[part])
        states.append(metric.add(Contact(channels=2).decode(outputs[part]), one))
    merged = metric.merge(metric.merge(states[0], states[1]), states[2])
    assert metric.value(merged) == metric.value(metric.add(kept, targets))


def test_scores_by_how_far_apart_letters_are():
    found = Predictions(
        kind="separations", scores=np.tile([1.0, 2.0, 3.0], (5, 1)), probabilities=None, values=np.zeros(5)
    )
    scores = scores_of(found, slice(0, 5))
    assert [scores[0, j] for j in range(1, 5)] == [1, 2, 3, 3] and scores[3, 4] == 1


def test_a_figure_of_no_pairs_is_none():
    targets, outputs = split()
    short = Targets(values=targets.values[30:37], weights=targets.weights[30:37])
    metric = contact_metrics(6, 8.0)["long_precision@L"]
    found = metric.value(metric.add(Contact(channels=2).decode(outputs[30:37]), short))
    assert why_undefined(found) == "no chain has pairs 24 apart"
