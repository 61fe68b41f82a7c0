"""Quality figures with mergeable states, named as scikit-learn names them.

Counts are int64 and sums are exact, so neither depends on how the stream was cut; figures of ranks and
correlations keep the predictions and see them whole. Units of weight 0 are left out; other weights are ignored.

Shapes: U units, C classes or outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np

from bigbatch.errors import Problem, RecipeError
from bigbatch.protocols import Metric, MetricFunction
from bigbatch.records import Predictions, Targets
from bigbatch.tasks import figures
from bigbatch.tasks.figures import Undefined
from bigbatch.tasks.sums import Parts, add_parts, exact_parts, total

BINS = 15
"""Equal-width bins of the expected calibration error."""


def counted(predictions: Predictions, targets: Targets) -> tuple[Predictions, Targets]:
    """Both without the units of weight 0."""
    kept_U = np.asarray(targets.weights) > 0
    if kept_U.all():
        return predictions, targets
    shares = predictions.probabilities
    return (
        Predictions(
            kind=predictions.kind,
            scores=predictions.scores[kept_U],
            probabilities=None if shares is None else shares[kept_U],
            values=predictions.values[kept_U],
        ),
        targets.map(lambda values: np.asarray(values)[kept_U]),
    )


def class_counts(predictions: Predictions, targets: Targets) -> np.ndarray:
    """Per class: correct predictions, predictions, true units (3, C) int64."""
    if predictions.kind == "multi":
        true_UC, found_UC = targets.values > 0.5, predictions.values
        return np.stack([(true_UC & found_UC).sum(0), found_UC.sum(0), true_UC.sum(0)]).astype(np.int64)
    confusion_CC = confusion(predictions, targets)
    return np.stack([np.diag(confusion_CC), confusion_CC.sum(0), confusion_CC.sum(1)])


def confusion(predictions: Predictions, targets: Targets) -> np.ndarray:
    """Units by true class (rows) and predicted class (columns), (C, C) int64."""
    classes = predictions.scores.shape[1]
    cells_U = targets.values.astype(np.int64) * classes + predictions.values
    return np.bincount(cells_U, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


# ---------------------------------------------------------------- kinds of state


@dataclass(frozen=True, kw_only=True)
class CountMetric:
    """A figure of the counts per class; the state is (3, C) int64."""

    name: str
    figure: Callable[[np.ndarray], float | Mapping[str, float]]
    larger_is_better: bool = True

    def add(self, predictions: Predictions, targets: Targets) -> np.ndarray:
        """Counts of these units."""
        return class_counts(*counted(predictions, targets))

    def merge(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Counts of both."""
        return left + right

    def value(self, state: np.ndarray) -> float | Mapping[str, float]:
        """The figure."""
        return self.figure(state)


@dataclass(frozen=True, kw_only=True)
class MeanMetric:
    """A mean over units; the state is (units, exact sum)."""

    name: str
    per_unit: Callable[[Predictions, Targets], np.ndarray]
    larger_is_better: bool

    def add(self, predictions: Predictions, targets: Targets) -> tuple[int, Parts]:
        """Number and sum of these units."""
        values_U = self.per_unit(*counted(predictions, targets))
        return len(values_U), exact_parts(values_U)

    def merge(self, left: tuple[int, Parts], right: tuple[int, Parts]) -> tuple[int, Parts]:
        """Number and sum of both."""
        return left[0] + right[0], add_parts(left[1], right[1])

    def value(self, state: tuple[int, Parts]) -> float:
        """The mean."""
        units, parts = state
        return total(parts) / units if units else Undefined("no samples")


@dataclass(frozen=True, kw_only=True)
class WholeMetric:
    """A figure that sees the whole split at once; the state is the predictions so far, in order."""

    name: str
    figure: MetricFunction
    larger_is_better: bool = True

    def add(self, predictions: Predictions, targets: Targets) -> tuple[tuple[Predictions, Targets], ...]:
        """These units."""
        return (counted(predictions, targets),)

    def merge(self, left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
        """Both, in this order."""
        return left + right

    def value(self, state: tuple[tuple[Predictions, Targets], ...]) -> float:
        """The figure."""
        predictions, targets = joined(state)
        return self.figure(predictions, targets) if len(predictions.scores) else Undefined("no samples")


def joined(chunks: Sequence[tuple[Predictions, Targets]]) -> tuple[Predictions, Targets]:
    """Chunks one behind the other."""
    if len(chunks) == 1:
        return chunks[0]
    found, wanted = [chunk[0] for chunk in chunks], [chunk[1] for chunk in chunks]
    shares = [chunk.probabilities for chunk in found if chunk.probabilities is not None]
    return (
        Predictions(
            kind=found[0].kind,
            scores=np.concatenate([chunk.scores for chunk in found]),
            probabilities=np.concatenate(shares) if shares else None,
            values=np.concatenate([chunk.values for chunk in found]),
        ),
        Targets(
            values=np.concatenate([chunk.values for chunk in wanted]),
            weights=np.concatenate([chunk.weights for chunk in wanted]),
            extras={
                name: np.concatenate([chunk.extras[name] for chunk in wanted]) for name in wanted[0].extras
            },
        ),
    )


@dataclass(frozen=True)
class CalibrationState:
    """Per bin of the largest probability: units and correct units (2, BINS) int64, exact sums of it."""

    counts: np.ndarray
    confidence: tuple[Parts, ...]


@dataclass(frozen=True)
class CalibrationBin:
    """Units whose largest probability lies in (lowest, highest]."""

    lowest: float
    highest: float
    units: int
    confidence: float
    """Mean largest probability; NaN without units."""
    accuracy: float
    """Share of correct units; NaN without units."""


@dataclass(frozen=True, kw_only=True)
class CalibrationMetric:
    """Expected calibration error: mean over units of |accuracy - confidence| of their bin (Guo et al. 2017)."""

    name: str = "expected_calibration_error"
    larger_is_better: bool = False

    def add(self, predictions: Predictions, targets: Targets) -> CalibrationState:
        """Bins of these units; a probability that is not a number is in none."""
        predictions, targets = counted(predictions, targets)
        shares_U = _shares(predictions).max(-1)
        correct_U = predictions.values == targets.values
        finite_U = np.isfinite(shares_U)
        shares_U, correct_U = shares_U[finite_U], correct_U[finite_U]
        bins_U = np.clip(np.ceil(shares_U * BINS).astype(np.int64) - 1, 0, BINS - 1)
        counts = np.stack(
            [np.bincount(bins_U, minlength=BINS), np.bincount(bins_U[correct_U], minlength=BINS)]
        )
        return CalibrationState(counts, tuple(exact_parts(shares_U[bins_U == bin]) for bin in range(BINS)))

    def merge(self, left: CalibrationState, right: CalibrationState) -> CalibrationState:
        """Bins of both."""
        pairs = zip(left.confidence, right.confidence, strict=True)
        return CalibrationState(left.counts + right.counts, tuple(add_parts(*pair) for pair in pairs))

    def bins(self, state: CalibrationState) -> tuple[CalibrationBin, ...]:
        """What is in each bin."""
        found = []
        for bin, parts in enumerate(state.confidence):
            units, correct = map(int, state.counts[:, bin])
            confidence, accuracy = (total(parts) / units, correct / units) if units else (np.nan, np.nan)
            found.append(CalibrationBin(bin / BINS, (bin + 1) / BINS, units, confidence, accuracy))
        return tuple(found)

    def value(self, state: CalibrationState) -> float:
        """The error, 0 to 1."""
        units = int(state.counts[0].sum())
        if not units:
            return Undefined("no samples with finite probabilities")
        gaps = [abs(total(parts) - int(state.counts[1, bin])) for bin, parts in enumerate(state.confidence)]
        return total(exact_parts(gaps)) / units


# ---------------------------------------------------------------- per unit


def _shares(predictions: Predictions) -> np.ndarray:
    assert predictions.probabilities is not None, "classification has probabilities"
    return predictions.probabilities


def log_loss_per_unit(predictions: Predictions, targets: Targets) -> np.ndarray:
    """-log of the probability of the true class, clipped to [eps, 1 - eps] of fp64 as scikit-learn does (U,)."""
    eps = np.finfo(np.float64).eps
    classes_U = targets.values.astype(np.int64)
    shares_U = _shares(predictions)[np.arange(len(classes_U)), classes_U]
    return -np.log(np.clip(shares_U, eps, 1 - eps))


def _errors(predictions: Predictions, targets: Targets) -> np.ndarray:
    found_UC = predictions.values.reshape(len(predictions.values), -1)
    return found_UC - targets.values.reshape(found_UC.shape).astype(np.float64)


def _exact_match(predictions: Predictions, targets: Targets) -> np.ndarray:
    return ((targets.values > 0.5) == predictions.values).all(-1).astype(np.float64)


def _regression(figure: Callable[[np.ndarray, np.ndarray], float]) -> MetricFunction:
    return lambda predictions, targets: figures.mean_over_outputs(figure, predictions.values, targets.values)


# ---------------------------------------------------------------- names

_PER_CLASS = {"precision": figures.precision, "recall": figures.recall, "f1": figures.f1}
PER_CLASS_PREFIXES = tuple(f"{name}_" for name in _PER_CLASS)
_SINGLE_COUNTS: Mapping[str, Callable[[np.ndarray], float]] = {
    "accuracy": figures.accuracy,
    "balanced_accuracy": figures.balanced_accuracy,
    "matthews_corrcoef": figures.matthews_corrcoef,
}
_AVERAGES = {"macro": figures.macro, "weighted": figures.weighted, "micro": figures.micro}
_WHOLE_REGRESSION = {"r2": figures.r2, "pearson": figures.pearson, "spearman": figures.spearman}
_DEFAULTS = {
    "single": (
        "accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_weighted",
        "matthews_corrcoef", "log_loss", "roc_auc_ovr", "expected_calibration_error",
    ),
    "multi": ("f1_micro", "f1_macro", "exact_match", "average_precision"),
    "regression": ("mse", "mae", "r2", "pearson", "spearman"),
}  # fmt: skip
PER_CLASS_DEFAULT_LABELS = 20
"""Up to so many labels, evaluations report F1 of each."""


def known_metrics(kind: str, labels: Sequence[str]) -> dict[str, Metric]:
    """Every metric of a kind of task by name; `f1_per_class` and the like give all classes at once."""
    if kind == "regression":
        found: dict[str, Metric] = {
            "mse": MeanMetric(
                name="mse", per_unit=lambda p, t: np.square(_errors(p, t)).mean(-1), larger_is_better=False
            ),
            "mae": MeanMetric(
                name="mae", per_unit=lambda p, t: np.abs(_errors(p, t)).mean(-1), larger_is_better=False
            ),
        }
        whole = {name: _regression(figure) for name, figure in _WHOLE_REGRESSION.items()}
        return found | {name: WholeMetric(name=name, figure=figure) for name, figure in whole.items()}
    averages = _AVERAGES | ({"macro": figures.macro_all} if kind == "multi" else {})
    found = {
        f"{name}_{average}": CountMetric(name=f"{name}_{average}", figure=partial(combine, figure))
        for name, figure in _PER_CLASS.items()
        for average, combine in averages.items()
    }
    for name in _PER_CLASS:
        each = f"{name}_per_class"
        found[each] = CountMetric(name=each, figure=partial(_per_class, name, tuple(labels)))
    return found | (_single_metrics(labels) if kind == "single" else _multi_metrics())


def _single_metrics(labels: Sequence[str]) -> dict[str, Metric]:
    found: dict[str, Metric] = {
        name: CountMetric(name=name, figure=figure) for name, figure in _SINGLE_COUNTS.items()
    }
    found["log_loss"] = MeanMetric(name="log_loss", per_unit=log_loss_per_unit, larger_is_better=False)
    found["roc_auc_ovr"] = WholeMetric(
        name="roc_auc_ovr", figure=lambda p, t: figures.roc_auc_ovr(t.values, _shares(p), labels)
    )
    found["expected_calibration_error"] = CalibrationMetric()
    return found


def _multi_metrics() -> dict[str, Metric]:
    matches = {
        name: MeanMetric(name=name, per_unit=_exact_match, larger_is_better=True)
        # scikit-learn's accuracy_score of label sets is the exact match.
        for name in ("exact_match", "accuracy")
    }
    precision = WholeMetric(
        name="average_precision",
        figure=lambda p, t: figures.average_precision_macro(t.values, _shares(p)),
    )
    return {**matches, "average_precision": precision}


def _per_class(name: str, labels: Sequence[str], counts_3C: np.ndarray) -> dict[str, float]:
    return {f"{name}_{label}": _of_class(name, index, label, counts_3C) for index, label in enumerate(labels)}


def _of_class(name: str, index: int, label: str, counts_3C: np.ndarray) -> float:
    if not counts_3C[1:, index].any():
        return Undefined(f"class {label!r} neither occurs in this split nor is predicted")
    return float(_PER_CLASS[name](counts_3C)[index])


def metric_for(name: str, kind: str, outputs: int, labels: Sequence[str], *, where: str = "recipe") -> Metric:
    """The metric of this name: one of the catalogue, or `f1_<label>`, `precision_<label>`, `recall_<label>`.

    Raises:
        RecipeError: there is none of that name for this kind of task; names the nearest.
    """
    names = tuple(labels) or tuple(map(str, range(outputs)))
    known = known_metrics(kind, names)
    if name in known:
        return known[name]
    prefix, _, label = name.partition("_")
    if kind != "regression" and prefix in _PER_CLASS and label in names:
        return CountMetric(name=name, figure=partial(_of_class, prefix, names.index(label), label))
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    what = f"unknown metric {name!r} for kind {kind}{hint} (known: {', '.join(sorted(known))})"
    raise RecipeError([Problem(where=where, key="metrics", what=what)])


def default_metrics(kind: str, labels: Sequence[str]) -> tuple[Metric, ...]:
    """What evaluations of this kind report when the recipe names no metrics."""
    known = known_metrics(kind, labels)
    names = _DEFAULTS[kind]
    if kind != "regression" and 0 < len(labels) <= PER_CLASS_DEFAULT_LABELS:
        names = (*names, "f1_per_class")
    return tuple(known[name] for name in names)


def larger_is_better(name: str, metrics: Sequence[Metric]) -> bool:
    """Direction of a reported figure: the loss, a metric, or an entry of a metric that reports several.

    Raises:
        RecipeError: none of these metrics reports it.
    """
    if name == "loss":
        return False
    for metric in metrics:
        if metric.name == name:
            return metric.larger_is_better
    for metric in metrics:
        stem = metric.name.removesuffix("per_class")
        if stem != metric.name and name.startswith(stem):
            return metric.larger_is_better
    names = ["loss", *(metric.name for metric in metrics)]
    near = get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise RecipeError(
        [Problem(where="recipe", key=name, what=f"is not reported{hint} (reported: {', '.join(names)})")]
    )
