"""Scores of rows: their mean is the figure, and they are how it moves with the weight of a row (scikit-learn's weights)."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from bigbatch.metrics import row_scores
from bigbatch.metrics.classify import known_metrics, metric_for
from bigbatch.metrics.entities import SEEN, STARTS
from bigbatch.metrics.perplexity import BYTES, language_metrics
from bigbatch.metrics.row_scores import scorer_of
from bigbatch.metrics.states import WholeMetric
from bigbatch.metrics.tag import tag_metric
from bigbatch.samples import Predictions, Targets

ABC = ("a", "b", "c")


def single(rows=40, classes=3, seed=0):
    random = np.random.default_rng(seed)
    values = random.integers(0, classes, rows)
    scores = np.eye(classes)[values] * 2 + random.normal(size=(rows, classes))
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    targets = Targets(values=values, weights=np.ones(rows, np.float32), extras={})
    return Predictions(kind="single", scores=scores, probabilities=shares, values=scores.argmax(-1)), targets


def some(predictions, targets, units):
    shares = predictions.probabilities
    return (
        Predictions(
            kind=predictions.kind,
            scores=predictions.scores[units],
            probabilities=None if shares is None else shares[units],
            values=predictions.values[units],
        ),
        targets.map(lambda values: values[units]),
    )


def scored(metric, name, predictions, targets, rows_U, *, pieces=1):
    """Scores, from whole rows in several pieces."""
    scorer = scorer_of(name, [metric])
    assert scorer is not None
    for rows in np.array_split(np.unique(rows_U), pieces):
        units = np.flatnonzero(np.isin(rows_U, rows))
        scorer.add(*some(predictions, targets, units), rows_U[units] - rows[0])
    return scorer.scores()


def figure(metric, name, predictions, targets):
    value = metric.value(metric.add(predictions, targets))
    return value[name] if isinstance(value, dict) else value


def slopes(of_weights, rows):
    """Figure + rows x its derivative by each row's weight, from figures of weighted rows."""
    step = 1e-4
    found = []
    for row in range(rows):
        more, less = np.ones(rows), np.ones(rows)
        more[row] += step
        less[row] -= step
        found.append((of_weights(more) - of_weights(less)) / (2 * step))
    return of_weights(np.ones(rows)) + rows * np.array(found)


def of_repeated(metric, name, predictions, targets, rows_U):
    """The same from the metric itself: of a split in which every row stands 500 times, and one row 501 or 499 times."""
    rows = int(rows_U[-1]) + 1

    def repeated(times_N):
        order = [np.flatnonzero(rows_U == row) for row in range(rows) for _ in range(int(times_N[row]))]
        return figure(metric, name, *some(predictions, targets, np.concatenate(order)))

    found = []
    for row in range(rows):
        more, less = np.full(rows, 500), np.full(rows, 500)
        more[row] += 1
        less[row] -= 1
        found.append((repeated(more) - repeated(less)) / (2 / 500))
    return repeated(np.ones(rows)) + rows * np.array(found)


def test_accuracy_is_0_or_1():
    predictions, targets = single()
    found = scored(known_metrics("single", ABC)["accuracy"], "accuracy", predictions, targets, np.arange(40))
    np.testing.assert_array_equal(found, predictions.values == targets.values)


WITH_WEIGHTS = {
    "f1_macro": lambda t, p, w: sk.f1_score(t, p, average="macro", sample_weight=w),
    "f1_micro": lambda t, p, w: sk.f1_score(t, p, average="micro", sample_weight=w),
    "f1_weighted": lambda t, p, w: sk.f1_score(t, p, average="weighted", sample_weight=w),
    "balanced_accuracy": lambda t, p, w: sk.balanced_accuracy_score(t, p, sample_weight=w),
    "matthews_corrcoef": lambda t, p, w: sk.matthews_corrcoef(t, p, sample_weight=w),
    "f1_b": lambda t, p, w: sk.f1_score(t, p, average=None, sample_weight=w)[1],
    "recall_c": lambda t, p, w: sk.recall_score(t, p, average=None, sample_weight=w)[2],
}


@pytest.mark.parametrize("name", WITH_WEIGHTS)
@pytest.mark.parametrize("pieces", [1, 3])
def test_figures_of_counts_move_with_the_weight_of_a_row(name, pieces, monkeypatch):
    monkeypatch.setattr(row_scores, "_BLOCK_COUNTS", 90)  # rows in several blocks, too
    predictions, targets = single()
    metric = metric_for(name, "single", 3, ABC)
    found = scored(metric, name, predictions, targets, np.arange(40), pieces=pieces)
    wanted = slopes(lambda w: WITH_WEIGHTS[name](targets.values, predictions.values, w), 40)
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert found.mean() == pytest.approx(figure(metric, name, predictions, targets), abs=2e-6)


def test_one_of_several_figures_by_name():
    predictions, targets = single()
    several, one = known_metrics("single", ABC)["f1_per_class"], metric_for("f1_b", "single", 3, ABC)
    found, wanted = (scored(each, "f1_b", predictions, targets, np.arange(40)) for each in (several, one))
    np.testing.assert_array_equal(found, wanted)


def test_the_share_of_right_rows_by_another_name_is_0_or_1_too():
    predictions, targets = single()
    found = scored(metric_for("f1_micro", "single", 3, ABC), "f1_micro", predictions, targets, np.arange(40))
    assert set(found) == {0.0, 1.0}


@pytest.mark.parametrize("name", ["f1_macro", "f1_micro", "exact_match", "f1_a"])
def test_labels(name):
    random = np.random.default_rng(3)
    values = (random.random((30, 3)) < 0.4).astype(np.float32)
    shares = random.random((30, 3)) * 0.5 + values * 0.4
    predictions = Predictions(kind="multi", scores=shares, probabilities=shares, values=shares > 0.5)
    targets = Targets(values=values, weights=np.ones(30, np.float32), extras={})
    metric = metric_for(name, "multi", 3, ABC)
    found = scored(metric, name, predictions, targets, np.arange(30), pieces=2)
    average = {"f1_macro": "macro", "f1_micro": "micro", "f1_a": None}.get(name, "exact")

    def weighted(w):
        if average == "exact":
            return sk.accuracy_score(values, predictions.values, sample_weight=w)
        return np.atleast_1d(sk.f1_score(values, predictions.values, average=average, sample_weight=w))[0]

    np.testing.assert_allclose(found, slopes(weighted, 30), atol=2e-6)


def test_rows_without_weight_are_left_out():
    predictions, targets = single()
    weights = np.ones(40, np.float32)
    weights[[3, 17]] = 0.0
    light = Targets(values=targets.values, weights=weights, extras={})
    kept = np.flatnonzero(weights)
    for name in ("f1_macro", "accuracy", "log_loss"):
        metric = known_metrics("single", ABC)[name]
        found = scored(metric, name, predictions, light, np.arange(40))
        wanted = scored(metric, name, *some(predictions, targets, kept), np.arange(38))
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("name", "sign"), [("perplexity", -1), ("bits_per_byte", -1), ("accuracy", 1)])
def test_rows_of_many_units_count_by_their_units(name, sign):
    random = np.random.default_rng(4)
    rows_U = np.repeat(np.arange(9), random.integers(1, 8, 9))
    nats = random.exponential(size=len(rows_U))
    predictions = Predictions(
        kind="language",
        scores=np.column_stack([nats, nats < 1]),
        probabilities=None,
        values=(nats < 1).astype(np.int64),
    )
    weights = np.ones(len(rows_U), np.float32)
    targets = Targets(values=np.zeros(len(rows_U)), weights=weights, extras={BYTES: weights})
    found = scored(language_metrics()[name], name, predictions, targets, rows_U, pieces=2)
    values = nats if sign < 0 else predictions.values
    assert len(found) == 9 and found.mean() == pytest.approx(sign * values.mean())
    assert found[2] == pytest.approx(sign * values[rows_U == 2].sum() * 9 / len(rows_U))


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_errors_are_negative(name):
    random = np.random.default_rng(5)
    found, true = random.normal(size=(2, 20))
    predictions = Predictions(kind="regression", scores=found[:, None], probabilities=None, values=found)
    targets = Targets(values=true, weights=np.ones(20, np.float32), extras={})
    metric = metric_for(name, "regression", 1, ())
    scores = scored(metric, name, predictions, targets, np.arange(20))
    wanted = np.abs(found - true) if name == "mae" else np.square(found - true)
    np.testing.assert_allclose(scores, -wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("f1", ("B-LOC", "B-PER", "I-PER", "O")),
        ("f1_macro", ("B-LOC", "B-PER", "I-PER", "O")),
        ("recall_PER", ("B-LOC", "B-PER", "I-PER", "O")),
        ("f1_macro", ("ADJ", "NOUN", "O", "VERB")),
        ("accuracy", ("ADJ", "NOUN", "X", "VERB")),
    ],
)
def test_a_row_of_tags_is_a_sentence(name, names):
    random = np.random.default_rng(6)
    lengths = random.integers(1, 9, 25)
    rows_U = np.repeat(np.arange(25), lengths)
    true = random.integers(0, 4, len(rows_U))
    found = np.where(random.random(len(rows_U)) < 0.7, true, random.integers(0, 4, len(rows_U)))
    starts = np.diff(rows_U, prepend=-1) > 0
    seen = (random.random(len(rows_U)) < 0.95).astype(np.float32)
    targets = Targets(values=true, weights=seen, extras={STARTS: starts.astype(np.float32), SEEN: seen})
    scores = np.eye(4)[found]
    predictions = Predictions(kind="single", scores=scores, probabilities=scores, values=found)
    metric = tag_metric(name, names, marked=names[0].startswith("B-"))
    wanted = of_repeated(metric, name, predictions, targets, rows_U)
    for pieces in (1, 4):
        np.testing.assert_allclose(
            scored(metric, name, predictions, targets, rows_U, pieces=pieces), wanted, atol=1e-4
        )


def test_figures_that_give_rows_no_score():
    metrics = [
        *known_metrics("single", ABC).values(),
        WholeMetric(name="mine", figure=lambda p, t: 0.0, own=True),
    ]
    for name in ("mine", "loss", "unheard"):
        assert scorer_of(name, metrics) is None


# ---------------------------------------------------------------- figures of ranks and squares


def multi(rows=40, labels=3, seed=0):
    random = np.random.default_rng(seed)
    true_UC = random.random((rows, labels)) < 0.4
    scores = np.round(2.0 * true_UC + random.normal(size=true_UC.shape), 1)  # some are equal
    shares = 1 / (1 + np.exp(-scores))
    targets = Targets(values=true_UC.astype(np.float32), weights=np.ones(rows, np.float32), extras={})
    return Predictions(kind="multi", scores=scores, probabilities=shares, values=shares > 0.5), targets


def regression(rows=40, outputs=2, seed=0):
    random = np.random.default_rng(seed)
    true_UC = np.round(random.normal(size=(rows, outputs)), 1)  # some are equal
    found_UC = np.round(true_UC + random.normal(size=true_UC.shape), 1)
    targets = Targets(values=true_UC, weights=np.ones(rows, np.float32), extras={})
    return Predictions(kind="regression", scores=found_UC, probabilities=None, values=found_UC), targets


WHOLE = {
    "roc_auc_ovr": ("single", single),
    "expected_calibration_error": ("single", single),
    "average_precision": ("multi", multi),
    "r2": ("regression", regression),
    "pearson": ("regression", regression),
    "spearman": ("regression", regression),
}


@pytest.mark.parametrize("name", WHOLE)
def test_figures_of_the_whole_move_with_the_weight_of_a_row(name):
    kind, made = WHOLE[name]
    predictions, targets = made(rows=24)
    metric = known_metrics(kind, ABC)[name]
    sign = 1 if metric.larger_is_better else -1
    wanted = of_repeated(metric, name, predictions, targets, np.arange(24))
    for pieces in (1, 3):
        found = scored(metric, name, predictions, targets, np.arange(24), pieces=pieces)
        np.testing.assert_allclose(found, sign * wanted, atol=2e-3)
        assert sign * found.mean() == pytest.approx(figure(metric, name, predictions, targets), abs=1e-9)


SQUARES = {
    "roc_auc_ovr": lambda t, p, w: np.mean(
        [sk.roc_auc_score(t.values == each, p.probabilities[:, each], sample_weight=w) for each in range(3)]
    ),
    "average_precision": lambda t, p, w: sk.average_precision_score(
        t.values, p.probabilities, sample_weight=w
    ),
    "r2": lambda t, p, w: sk.r2_score(t.values, p.values, sample_weight=w),
}


@pytest.mark.parametrize("name", SQUARES)
def test_they_are_slopes_of_scikit_learns_figures(name):
    kind, made = WHOLE[name]
    predictions, targets = made()
    found = scored(known_metrics(kind, ABC)[name], name, predictions, targets, np.arange(40))
    np.testing.assert_allclose(found, slopes(lambda w: SQUARES[name](targets, predictions, w), 40), atol=1e-5)


def test_the_spread_of_an_area_is_delongs():
    """From the definition: each positive against each negative."""
    predictions, targets = single(classes=2)
    right_U, scores_U = targets.values == 1, predictions.probabilities[:, 1]
    wins = (scores_U[right_U][:, None] > scores_U[~right_U]) + 0.5 * (
        scores_U[right_U][:, None] == scores_U[~right_U]
    )
    wanted = wins.mean(1).var() / len(wins) + wins.mean(0).var() / wins.shape[1]
    found = scored(
        known_metrics("single", "ab")["roc_auc_ovr"], "roc_auc_ovr", predictions, targets, np.arange(40)
    )
    assert found.var() / 40 == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["roc_auc_ovr", "r2"])
def test_units_of_a_row_are_added_and_those_without_weight_left_out(name):
    kind, made = WHOLE[name]
    predictions, targets = made()
    weights = np.ones(40, np.float32)
    weights[[3, 10, 11]] = 0
    rows_U = np.repeat(np.arange(20), 2)  # row 5 has nothing that counts
    targets = Targets(values=targets.values, weights=weights, extras={})
    metric = known_metrics(kind, ABC)[name]
    found = scored(metric, name, predictions, targets, rows_U, pieces=2)
    kept = weights > 0
    each = scored(metric, name, *some(predictions, targets, kept), np.arange(37))
    value = figure(metric, name, predictions, targets)
    wanted = np.array(
        [value + 19 / 37 * (each[rows_U[kept] == row] - value).sum() for row in range(20) if row != 5]
    )
    np.testing.assert_allclose(found, wanted)


def test_a_figure_that_does_not_exist_gives_rows_no_score():
    predictions, targets = single()
    targets = Targets(values=np.minimum(targets.values, 1), weights=targets.weights, extras={})
    metric = known_metrics("single", ABC)["roc_auc_ovr"]
    assert len(scored(metric, "roc_auc_ovr", predictions, targets, np.arange(40))) == 0
    predictions, targets = regression()
    targets = Targets(values=np.ones((40, 2)), weights=targets.weights, extras={})
    assert len(scored(known_metrics("regression", ABC)["r2"], "r2", predictions, targets, np.arange(40))) == 0
