"""The formulas behind the metrics, on numpy arrays; equal to scikit-learn's and scipy's (tested).

A figure that does not exist (an AUC without positives, a correlation with a constant) is `Undefined`: NaN with a
reason. Where scikit-learn warns and gives a number, that number is given.

Shapes: U units, C classes or outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class Undefined(float):
    """NaN that knows why."""

    reason: str

    def __new__(cls, reason: str) -> Undefined:
        """NaN with this reason."""
        value = super().__new__(cls, "nan")
        value.reason = reason
        return value


def why_undefined(value: object) -> str | None:
    """Why a metric's value is no figure; None when it is one. A metric of the user's says it with None."""
    if isinstance(value, Undefined):
        return value.reason
    return "the metric gave none" if value is None else None


class Idle(float):
    """A number that scikit-learn gives for these targets and that says nothing of the model; it knows why."""

    reason: str

    def __new__(cls, value: float, reason: str) -> Idle:
        """This number with this reason."""
        found = super().__new__(cls, value)
        found.reason = reason
        return found


# ---------------------------------------------------------------- from counts
# counts_3C holds, per class: correct predictions, predictions, true units (int64).


def precision(counts_3C: np.ndarray) -> np.ndarray:
    """Correct / predicted, per class; 0 for a class that was never predicted."""
    return _ratio(counts_3C[0], counts_3C[1])


def recall(counts_3C: np.ndarray) -> np.ndarray:
    """Correct / true, per class; 0 for a class that does not occur."""
    return _ratio(counts_3C[0], counts_3C[2])


def f1(counts_3C: np.ndarray) -> np.ndarray:
    """2 correct / (predicted + true), per class."""
    return _ratio(2 * counts_3C[0], counts_3C[1] + counts_3C[2])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=below != 0)


PerClass = Callable[[np.ndarray], np.ndarray]


def macro(figure: PerClass, counts_3C: np.ndarray) -> float:
    """Mean over the classes that occur or are predicted (scikit-learn's default for single labels)."""
    present_C = counts_3C[1] + counts_3C[2] > 0
    return float(figure(counts_3C)[present_C].mean()) if present_C.any() else Undefined("no samples")


def macro_all(figure: PerClass, counts_3C: np.ndarray) -> float:
    """Mean over all labels (scikit-learn's for multi-label)."""
    return float(figure(counts_3C).mean())


def micro(figure: PerClass, counts_3C: np.ndarray) -> float:
    """The figure of the counts summed over classes."""
    return float(figure(counts_3C.sum(-1, keepdims=True))[0])


def weighted(figure: PerClass, counts_3C: np.ndarray) -> float:
    """Mean over classes, weighted by how often each occurs."""
    true_C = counts_3C[2]
    return float(figure(counts_3C) @ true_C / true_C.sum()) if true_C.any() else 0.0


def accuracy(counts_3C: np.ndarray) -> float:
    """Share of correct units, single label."""
    units = counts_3C[2].sum()
    return float(counts_3C[0].sum() / units) if units else Undefined("no samples")


def balanced_accuracy(counts_3C: np.ndarray) -> float:
    """Mean recall over the classes that occur."""
    occurs_C = counts_3C[2] > 0
    return float(recall(counts_3C)[occurs_C].mean()) if occurs_C.any() else Undefined("no samples")


def matthews_corrcoef(counts_3C: np.ndarray) -> float:
    """Correlation of predicted and true class (Gorodkin's R_K); 0 when either is constant."""
    predicted_C, true_C = counts_3C[1], counts_3C[2]
    # Python's numbers: the products of counts may not fit 64 bits.
    correct, units = counts_3C[0].sum().item(), true_C.sum().item()
    if not units:
        return Undefined("no samples")
    covariance = correct * units - (predicted_C @ true_C).item()
    predicted, true = (
        units**2 - (predicted_C @ predicted_C).item(),
        units**2 - (true_C @ true_C).item(),
    )
    return covariance / (float(predicted) * float(true)) ** 0.5 if predicted and true else 0.0


# ---------------------------------------------------------------- from ranks


def doubled_ranks(values_U: np.ndarray) -> np.ndarray:
    """Twice the rank of each value, from 2 up, ties sharing their mean rank: whole numbers, so exact (U,) int64."""
    _, inverse_U, counts = np.unique(values_U, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (2 * last - counts + 1)[inverse_U.reshape(-1)]


def roc_auc(positive_U: np.ndarray, scores_U: np.ndarray) -> float:
    """Chance that a positive unit scores higher than a negative one, ties counting half (Mann-Whitney)."""
    positives = int(positive_U.sum())
    negatives = len(positive_U) - positives
    if not positives or not negatives:
        return Undefined("needs both units of the class and of others")
    doubled = int(doubled_ranks(scores_U)[positive_U].sum()) - positives * (positives + 1)
    return doubled / (2 * positives * negatives)


def roc_auc_ovr(values_U: np.ndarray, shares_UC: np.ndarray, names: Sequence[str]) -> float:
    """Mean over classes of class-against-rest ROC AUC; undefined when a class does not occur.

    Args:
        values_U: (U,) int64 true classes.
        shares_UC: (U, C) fp64 predicted probabilities.
        names: (C,) of the classes, for messages; empty: their numbers.
    """
    if not np.isfinite(shares_UC).all():
        return Undefined("probabilities are not finite")
    areas = []
    for label in range(shares_UC.shape[1]):
        area = roc_auc(values_U == label, shares_UC[:, label])
        if isinstance(area, Undefined):
            return Undefined(f"class {_name(names, label)} does not occur in this split, or is the only one")
        areas.append(area)
    return float(np.mean(areas))


def average_precision(positive_U: np.ndarray, scores_U: np.ndarray) -> float:
    """Sum over score thresholds of (recall gained) x precision; 0 without positives (scikit-learn's)."""
    if not positive_U.any():
        return 0.0
    order_U = np.argsort(-scores_U, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores_U[order_U])), len(scores_U) - 1)
    found = np.cumsum(positive_U[order_U])[ends]
    return float(np.sum(np.diff(found, prepend=0) / found[-1] * (found / (ends + 1))))


def average_precision_macro(values_UC: np.ndarray, shares_UC: np.ndarray) -> float:
    """Mean over labels of the average precision."""
    if not len(values_UC) or not np.isfinite(shares_UC).all():
        return Undefined("probabilities are not finite" if len(values_UC) else "no samples")
    labels = range(values_UC.shape[1])
    return float(
        np.mean([average_precision(values_UC[:, label] > 0.5, shares_UC[:, label]) for label in labels])
    )


# ---------------------------------------------------------------- regression, one output at a time


def pearson(predicted_U: np.ndarray, true_U: np.ndarray) -> float:
    """Linear correlation, -1 to 1."""
    if len(true_U) < 2:
        return Undefined("needs two samples")
    if not (np.isfinite(predicted_U).all() and np.isfinite(true_U).all()):
        return Undefined("predictions are not finite")
    # Compared, not subtracted: the mean of equal numbers may be off by a rounding.
    # Of the targets first: constant ones can have no correlation, whatever is predicted.
    for name, values_U in (("targets", true_U), ("predictions", predicted_U)):
        if (values_U == values_U[0]).all():
            return Undefined(f"the {name} are constant")
    left_U, right_U = _unit_vector(predicted_U), _unit_vector(true_U)
    return float(np.clip(left_U @ right_U, -1.0, 1.0))


def _unit_vector(values_U: np.ndarray) -> np.ndarray:
    """Centred, of length 1; scaled first so that squares neither overflow nor vanish."""
    centred_U = values_U - values_U.mean()
    scale = np.abs(centred_U).max()
    if scale == 0.0:
        return centred_U
    centred_U = centred_U / scale
    return centred_U / np.linalg.norm(centred_U)


def spearman(predicted_U: np.ndarray, true_U: np.ndarray) -> float:
    """Pearson correlation of the ranks, ties sharing their mean rank."""
    if not (np.isfinite(predicted_U).all() and np.isfinite(true_U).all()):
        return Undefined("predictions are not finite")
    return pearson(doubled_ranks(predicted_U).astype(np.float64), doubled_ranks(true_U).astype(np.float64))


def r2(predicted_U: np.ndarray, true_U: np.ndarray) -> float:
    """1 - squared error / squared deviation from the mean; constant targets: 1 if met exactly, else 0."""
    if len(true_U) < 2:
        return Undefined("needs two samples")
    error = float(np.square(true_U - predicted_U).sum())
    spread = float(np.square(true_U - true_U.mean()).sum())
    if spread == 0.0:
        return Idle(1.0 if error == 0.0 else 0.0, "the targets are constant")
    return 1.0 - error / spread


def mean_over_outputs(
    figure: Callable[[np.ndarray, np.ndarray], float], predicted: np.ndarray, true: np.ndarray
) -> float:
    """Mean of a figure over the outputs of (U,) or (U, C) values; undefined when one of them is.

    Args:
        figure: of one output: (predicted (U,), true (U,)) fp64.
        predicted: (U,) or (U, C).
        true: the same shape.
    """
    predicted_UC = predicted.reshape(len(predicted), -1).astype(np.float64)
    true_UC = true.reshape(predicted_UC.shape).astype(np.float64)
    found = [figure(predicted_UC[:, output], true_UC[:, output]) for output in range(predicted_UC.shape[1])]
    undefined = [value for value in found if isinstance(value, Undefined)]
    if undefined:
        return undefined[0]
    idle = [value for value in found if isinstance(value, Idle)]
    return Idle(float(np.mean(found)), idle[0].reason) if len(idle) == len(found) else float(np.mean(found))


def _name(names: Sequence[str], label: int) -> str:
    return repr(names[label]) if label < len(names) else str(label)
