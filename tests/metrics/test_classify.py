from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from bigbatch.errors import RecipeError
from bigbatch.metrics.classify import default_metrics, known_metrics, metric_for
from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.states import CalibrationMetric, WholeMetric, confusion
from bigbatch.protocols import Metric
from bigbatch.samples import Targets
from bigbatch.tasks.classify import Classify

NAMES = ("a", "b", "c", "d")


def targets_of(values, weights=None):
    values = np.asarray(values)
    return Targets(values=values, weights=np.ones(len(values), np.float32) if weights is None else weights)


def figure(metric: Metric, predictions, targets):
    return metric.value(metric.add(predictions, targets))


def slice_of(task, outputs, targets, part):
    return task.decode(outputs[part]), targets.map(lambda values: values[part])


@st.composite
def single(draw):
    """Logits on a coarse grid (so that scores tie) and class ids, some classes absent."""
    count, units = draw(st.integers(2, 4)), draw(st.integers(1, 25))
    cells = draw(st.lists(st.integers(-3, 3), min_size=count * units, max_size=count * units))
    values = draw(st.lists(st.integers(0, count - 1), min_size=units, max_size=units))
    return np.array(cells, np.float64).reshape(units, count), np.array(values)


def sk_single(values, found, shares):
    every = list(range(shares.shape[1]))
    scored = {
        f"{name}_{average}": function(values, found, average=average, zero_division=0.0)
        for name, function in (
            ("precision", sk.precision_score),
            ("recall", sk.recall_score),
            ("f1", sk.f1_score),
        )
        for average in ("macro", "weighted", "micro")
    }
    return scored | {
        "accuracy": sk.accuracy_score(values, found),
        "balanced_accuracy": sk.balanced_accuracy_score(values, found),
        "matthews_corrcoef": sk.matthews_corrcoef(values, found),
        "log_loss": sk.log_loss(values, shares, labels=every),
    }


@given(single())
@settings(deadline=None, max_examples=80)
def test_single_label_figures_are_scikit_learns(case):
    logits, values = case
    predictions, targets = Classify().decode(logits), targets_of(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = sk_single(values, predictions.values, predictions.probabilities)
    known = known_metrics("single", NAMES[: logits.shape[1]])
    for name, value in wanted.items():
        assert figure(known[name], predictions, targets) == pytest.approx(value, rel=1e-12, abs=1e-12), name
    every = range(logits.shape[1])
    np.testing.assert_array_equal(
        confusion(predictions, targets), sk.confusion_matrix(values, predictions.values, labels=every)
    )


@given(single())
@settings(deadline=None, max_examples=80)
def test_roc_auc_is_scikit_learns_and_undefined_where_that_is_nan(case):
    logits, values = case
    predictions = Classify().decode(logits)
    shares, every = predictions.probabilities, list(range(logits.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = (
            sk.roc_auc_score(values, shares[:, 1])
            if len(every) == 2
            else sk.roc_auc_score(values, shares, multi_class="ovr", labels=every)
        )
    found = figure(metric_for("roc_auc_ovr", "single", len(every), NAMES), predictions, targets_of(values))
    if math.isnan(wanted):
        assert isinstance(found, Undefined) and "does not occur" in found.reason
    else:
        assert found == pytest.approx(wanted, rel=1e-12)


@given(single())
@settings(deadline=None, max_examples=40)
def test_per_class_figures_are_scikit_learns(case):
    logits, values = case
    names, predictions = NAMES[: logits.shape[1]], Classify().decode(logits)
    every = list(range(len(names)))
    for stem, function in (
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
        ("f1", sk.f1_score),
    ):
        wanted = function(values, predictions.values, labels=every, average=None, zero_division=0.0)
        together = figure(
            known_metrics("single", names)[f"{stem}_per_class"], predictions, targets_of(values)
        )
        for label, name in enumerate(names):
            alone = figure(metric_for(f"{stem}_{name}", "single", 4, names), predictions, targets_of(values))
            if label in values or label in predictions.values:
                assert alone == together[f"{stem}_{name}"] == pytest.approx(wanted[label])
            else:
                assert isinstance(alone, Undefined) and repr(name) in alone.reason


@st.composite
def multi(draw):
    labels, units = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    cells = draw(st.lists(st.integers(-3, 3), min_size=labels * units, max_size=labels * units))
    hot = draw(st.lists(st.booleans(), min_size=labels * units, max_size=labels * units))
    return np.array(cells, np.float64).reshape(units, labels), np.array(hot, np.float32).reshape(
        units, labels
    )


@given(multi())
@settings(deadline=None, max_examples=80)
def test_multi_label_figures_are_scikit_learns(case):
    logits, values = case
    predictions, targets = Classify(kind="multi").decode(logits), targets_of(values)
    wide = values.shape[1] > 1
    known = known_metrics("multi", NAMES[: values.shape[1]])
    found = predictions.values.astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = {
            "exact_match": sk.accuracy_score(values, found),
            "accuracy": sk.accuracy_score(values, found),
            "average_precision": sk.average_precision_score(
                values, predictions.probabilities, average="macro"
            ),
        }
        if wide:  # scikit-learn takes a single column for a binary problem with two classes
            wanted |= {
                f"{name}_{average}": function(values, found, average=average, zero_division=0.0)
                for name, function in (("precision", sk.precision_score), ("f1", sk.f1_score))
                for average in ("macro", "weighted", "micro")
            }
    for name, value in wanted.items():
        assert figure(known[name], predictions, targets) == pytest.approx(value, rel=1e-12, abs=1e-12), name


@given(
    st.integers(2, 30).flatmap(
        lambda units: st.tuples(*[st.lists(st.integers(-40, 40), min_size=units, max_size=units)] * 2)
    )
)
@settings(deadline=None, max_examples=80)
def test_regression_figures_are_scikit_learns_and_scipys(case):
    found, values = np.array(case[0], np.float64) / 8, np.array(case[1], np.float32) / 4
    predictions, targets = Classify(kind="regression").decode(found[:, None]), targets_of(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = {
            "mse": sk.mean_squared_error(values, found),
            "mae": sk.mean_absolute_error(values, found),
            "r2": sk.r2_score(values.astype(np.float64), found),
            "pearson": float(stats.pearsonr(values.astype(np.float64), found).statistic),
            "spearman": float(stats.spearmanr(values, found).statistic),
        }
    for name, value in wanted.items():
        got = figure(metric_for(name, "regression", 1, ()), predictions, targets)
        if math.isnan(value):
            assert isinstance(got, Undefined) and "constant" in got.reason, name
        else:
            assert got == pytest.approx(value, rel=1e-10, abs=1e-10), name


def test_several_outputs_are_averaged_as_scikit_learn_does():
    random = np.random.default_rng(3)
    found, values = random.normal(size=(20, 2)), random.normal(size=(20, 2)).astype(np.float32)
    predictions, targets = Classify(kind="regression", labels=("x", "y")).decode(found), targets_of(values)
    for name, function in (
        ("mse", sk.mean_squared_error),
        ("mae", sk.mean_absolute_error),
        ("r2", sk.r2_score),
    ):
        wanted = function(values.astype(np.float64), found)
        assert figure(metric_for(name, "regression", 2, ()), predictions, targets) == pytest.approx(wanted)


@pytest.mark.parametrize("kind", ["single", "multi", "regression"])
def test_cutting_the_stream_changes_no_bit(kind):
    random = np.random.default_rng(1)
    outputs = random.normal(size=(101, 3 if kind != "regression" else 1)) * 3
    values = {
        "single": random.integers(0, 3, 101),
        "multi": (random.random((101, 3)) < 0.4).astype(np.float32),
        "regression": random.normal(size=101).astype(np.float32),
    }[kind]
    task = Classify(kind=kind)
    weights = (random.random(101) < 0.9).astype(np.float32)
    targets = targets_of(values, weights)
    for metric in known_metrics(kind, NAMES[:3]).values():
        whole = figure(metric, task.decode(outputs), targets)
        for cuts in ([7], [1, 50, 51], list(range(10, 101, 10))):
            parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, 101], strict=True)]
            states = [metric.add(*slice_of(task, outputs, targets, part)) for part in parts]
            state = states[0]
            for other in states[1:]:
                state = metric.merge(state, other)
            assert metric.value(state) == whole, metric.name


@pytest.mark.parametrize("kind", ["single", "multi", "regression"])
def test_units_of_weight_zero_are_left_out_and_other_weights_ignored(kind):
    random = np.random.default_rng(2)
    outputs = random.normal(size=(40, 3 if kind != "regression" else 1))
    values = {
        "single": random.integers(0, 3, 40),
        "multi": (random.random((40, 3)) < 0.4).astype(np.float32),
        "regression": random.normal(size=40).astype(np.float32),
    }[kind]
    weights = np.where(np.arange(40) < 30, 3.0, 0.0).astype(np.float32)
    if kind == "single":
        values[30:] = -100
    task = Classify(kind=kind)
    for metric in known_metrics(kind, NAMES[:3]).values():
        few = figure(metric, task.decode(outputs[:30]), targets_of(values[:30]))
        assert figure(metric, task.decode(outputs), targets_of(values, weights)) == few, metric.name


def test_calibration_error_by_hand():
    random = np.random.default_rng(5)
    logits, values = random.normal(size=(300, 3)) * 2, random.integers(0, 3, 300)
    predictions, targets = Classify().decode(logits), targets_of(values)
    shares, right = predictions.probabilities.max(1), predictions.values == values
    wanted = 0.0
    for low in np.arange(15) / 15:
        inside = (shares > low) & (shares <= low + 1 / 15)
        if inside.any():
            wanted += inside.mean() * abs(right[inside].mean() - shares[inside].mean())
    metric = CalibrationMetric()
    assert figure(metric, predictions, targets) == pytest.approx(wanted, rel=1e-12)
    bins = metric.bins(metric.add(predictions, targets))
    assert sum(each.units for each in bins) == 300 and bins[0].units == 0 and bins[0].accuracy is None


def test_a_diverged_model_gives_figures_and_no_crash():
    logits = np.full((4, 3), np.nan)
    predictions, targets = Classify().decode(logits), targets_of([0, 1, 2, 0])
    for metric in default_metrics("single", NAMES[:3]):
        figure(metric, predictions, targets)
    predictions = Classify(kind="regression").decode(np.full((4, 1), np.inf))
    for metric in default_metrics("regression", ()):
        assert not math.isfinite(figure(metric, predictions, targets_of(np.arange(4.0))))


def test_a_function_of_your_own_sees_the_whole_split_at_once():
    calls = []

    def cost(predictions, targets):
        calls.append(len(targets.values))
        return float((predictions.values != targets.values).sum() * 5)

    metric = WholeMetric(name="cost", figure=cost, larger_is_better=False)
    task, targets = Classify(), targets_of([0, 1, 1])
    logits = np.array([[1.0, 0], [1, 0], [0, 1]])
    halves = [metric.add(*slice_of(task, logits, targets, part)) for part in (slice(0, 1), slice(1, 3))]
    assert metric.value(metric.merge(*halves)) == 5.0 and calls == [3]


def test_unknown_names():
    with pytest.raises(RecipeError, match="did you mean f1_macro"):
        metric_for("f1macro", "single", 2, ("a", "b"))
    with pytest.raises(RecipeError, match="unknown metric 'accuracy' for kind regression"):
        metric_for("accuracy", "regression", 1, ())
