"""Quality figures by name, named as scikit-learn names them.

Shapes: U units, C classes or outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial

import numpy as np

from bigbatch.errors import Problem, RecipeError
from bigbatch.metrics import figures, slopes
from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.naming import figure_of_class
from bigbatch.metrics.states import CalibrationMetric, CountMetric, MeanMetric, WholeMetric, shares_of
from bigbatch.protocols import Metric, MetricFunction
from bigbatch.samples import Predictions, Targets

# ---------------------------------------------------------------- per unit


def log_loss_per_unit(predictions: Predictions, targets: Targets) -> np.ndarray:
    """-log of the probability of the true class, clipped to [eps, 1 - eps] of fp64 as scikit-learn does (U,)."""
    eps = np.finfo(np.float64).eps
    classes_U = targets.values.astype(np.int64)
    shares_U = shares_of(predictions)[np.arange(len(classes_U)), classes_U]
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
_WHOLE_REGRESSION = {
    "r2": (figures.r2, slopes.of_r2),
    "pearson": (figures.pearson, slopes.of_pearson),
    "spearman": (figures.spearman, slopes.of_spearman),
}
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
        return found | {
            name: WholeMetric(
                name=name, figure=_regression(figure), slope=partial(slopes.mean_over_outputs, slope)
            )
            for name, (figure, slope) in _WHOLE_REGRESSION.items()
        }
    averages = _AVERAGES | ({"macro": figures.macro_all} if kind == "multi" else {})
    found = {
        f"{name}_{average}": CountMetric(name=f"{name}_{average}", figure=partial(combine, figure))
        for name, figure in _PER_CLASS.items()
        for average, combine in averages.items()
    }
    for name in _PER_CLASS:
        each = f"{name}_per_class"
        found[each] = CountMetric(
            name=each,
            figure=partial(_per_class, name, tuple(labels)),
            reported=tuple(figure_of_class(name, label) for label in labels),
        )
    return found | (_single_metrics(labels) if kind == "single" else _multi_metrics())


def _single_metrics(labels: Sequence[str]) -> dict[str, Metric]:
    found: dict[str, Metric] = {
        name: CountMetric(name=name, figure=figure) for name, figure in _SINGLE_COUNTS.items()
    }
    found["log_loss"] = MeanMetric(name="log_loss", per_unit=log_loss_per_unit, larger_is_better=False)
    found["roc_auc_ovr"] = WholeMetric(
        name="roc_auc_ovr",
        figure=lambda p, t: figures.roc_auc_ovr(t.values, shares_of(p), labels),
        slope=slopes.of_roc_auc_ovr,
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
        figure=lambda p, t: figures.average_precision_macro(t.values, shares_of(p)),
        slope=slopes.of_average_precision_macro,
    )
    return {**matches, "average_precision": precision}


def _per_class(name: str, labels: Sequence[str], counts_3C: np.ndarray) -> dict[str, float]:
    return {
        figure_of_class(name, label): _of_class(name, index, label, counts_3C)
        for index, label in enumerate(labels)
    }


def _of_class(name: str, index: int, label: str, counts_3C: np.ndarray) -> float:
    if not counts_3C[1:, index].any():
        return Undefined(f"class {label!r} neither occurs in this split nor is predicted")
    return float(_PER_CLASS[name](counts_3C)[index])


def metric_for(name: str, kind: str, outputs: int, labels: Sequence[str], *, where: str = "recipe") -> Metric:
    """The metric of this name: one of the catalogue, or `f1_<label>`, `precision_<label>`, `recall_<label>`.

    Args:
        name: as the recipe has it.
        kind: `single`, `multi` or `regression`.
        outputs: of the head, C; classes without names are numbered.
        labels: (C,) names of the classes in the order of the outputs; empty: they have none.
        where: the place that a message names: a file, say.

    Raises:
        RecipeError: there is none of that name for this kind of task; names the nearest.
    """
    names = tuple(labels) or tuple(map(str, range(outputs)))
    known = known_metrics(kind, names)
    if name in known:
        return known[name]
    of_classes = {
        figure_of_class(prefix, label): (prefix, index, label)
        for prefix in (_PER_CLASS if kind != "regression" else ())
        for index, label in enumerate(names)
    }
    if name in of_classes:
        return CountMetric(name=name, figure=partial(_of_class, *of_classes[name]))
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
