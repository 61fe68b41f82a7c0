"""How a figure of the whole split moves with the weight of one unit: what pairs evaluations by figures of ranks, too.

::

    ROC AUC of a class     (V_u - area) / units of u's side,   V_u: share of the other side that u is right about
    average precision      by its sum over positives of (right above) / (all above)
    r2                     -(e_u^2 spread - d_u^2 error) / spread^2      e, d: of the prediction, of the mean
    correlation            (zx zy - r (zx^2 + zy^2) / 2) / U             z: standardised
    Spearman's             that of the ranks, and what u's weight does to the ranks of the others
    calibration error      (+-(right_u - confidence_u) - error) / U      the sign of its bin

The variance of the AUC's slopes is DeLong's. All are exact derivatives: of repeated units in the limit (tested).

References:
    DeLong, DeLong and Clarke-Pearson 1988, Comparing the areas under two or more correlated ROC curves.
    Hampel 1974, The influence curve and its role in robust estimation.

Shapes: U units, C classes or outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bigbatch.metrics.figures import average_precision, doubled_ranks, pearson, roc_auc
from bigbatch.metrics.states import bins_of, shares_of
from bigbatch.samples import Predictions, Targets

Slope = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(predicted (U,), true (U,)) -> (U,)."""


def of_roc_auc(positive_U: np.ndarray, scores_U: np.ndarray) -> np.ndarray:
    """Of the area under one class's ROC curve; there are units on both sides."""
    area = roc_auc(positive_U, scores_U)
    everywhere_U = doubled_ranks(scores_U) / 2
    found_U = np.empty(len(scores_U))
    for side_U, above in ((positive_U, True), (~positive_U, False)):
        own, others = int(side_U.sum()), int((~side_U).sum())
        below = (everywhere_U[side_U] - doubled_ranks(scores_U[side_U]) / 2) / others
        found_U[side_U] = ((below if above else 1.0 - below) - area) / own
    return found_U


def of_roc_auc_ovr(predictions: Predictions, targets: Targets) -> np.ndarray:
    """Of the mean over classes."""
    shares_UC = shares_of(predictions)
    found = [of_roc_auc(targets.values == label, shares_UC[:, label]) for label in range(shares_UC.shape[1])]
    return np.mean(found, axis=0)


def of_average_precision(positive_U: np.ndarray, scores_U: np.ndarray) -> np.ndarray:
    """Of one label's average precision."""
    positives = int(positive_U.sum())
    if not positives:
        return np.zeros(len(scores_U))
    order_U = np.argsort(-scores_U, kind="stable")
    right_U = positive_U[order_U].astype(np.float64)
    firsts = np.flatnonzero(np.append(True, np.diff(scores_U[order_U])))
    ends = np.append(firsts[1:], len(order_U)) - 1
    group_U = np.repeat(np.arange(len(ends)), ends - firsts + 1)
    all_above, right_above = ends + 1.0, np.cumsum(right_U)[ends]
    gained = np.add.reduceat(right_U, firsts)
    # One more unit counts among all, and if it is right among the right ones, of every threshold at or below it.
    as_right = np.cumsum((gained / all_above)[::-1])[::-1]
    as_any = np.cumsum((gained * right_above / all_above**2)[::-1])[::-1]
    precision = right_above / all_above
    whole = average_precision(positive_U, scores_U)
    moved_U = right_U * (precision + as_right)[group_U] - as_any[group_U] - right_U * whole
    found_U = np.empty(len(scores_U))
    found_U[order_U] = moved_U / positives
    return found_U


def of_average_precision_macro(predictions: Predictions, targets: Targets) -> np.ndarray:
    """Of the mean over labels."""
    shares_UC, true_UC = shares_of(predictions), targets.values > 0.5
    found = [
        of_average_precision(true_UC[:, label], shares_UC[:, label]) for label in range(true_UC.shape[1])
    ]
    return np.mean(found, axis=0)


def of_r2(predicted_U: np.ndarray, true_U: np.ndarray) -> np.ndarray:
    """Of the share of the spread that is explained; the targets are not constant."""
    errors_U, apart_U = np.square(true_U - predicted_U), np.square(true_U - true_U.mean())
    spread = apart_U.sum()
    return (apart_U * (errors_U.sum() / spread) - errors_U) / spread


def of_pearson(predicted_U: np.ndarray, true_U: np.ndarray) -> np.ndarray:
    """Of the linear correlation; neither is constant."""
    left_U, right_U = _standardised(predicted_U), _standardised(true_U)
    correlation = pearson(predicted_U, true_U)
    return (left_U * right_U - correlation * (left_U**2 + right_U**2) / 2) / len(left_U)


def of_spearman(predicted_U: np.ndarray, true_U: np.ndarray) -> np.ndarray:
    """Of the correlation of ranks; neither is constant."""
    ranks = [doubled_ranks(each) / 2.0 for each in (predicted_U, true_U)]
    left_U, right_U = map(_standardised, ranks)
    correlation = pearson(*ranks)
    found_U = of_pearson(*ranks)
    for values_U, own_U, other_U, ranks_U in (
        (predicted_U, left_U, right_U, ranks[0]),
        (true_U, right_U, left_U, ranks[1]),
    ):
        by_rank_U = (other_U - correlation * own_U) / (len(own_U) * ranks_U.std())
        found_U = found_U + _raises(values_U, by_rank_U)
    return found_U


def _raises(values_U: np.ndarray, by_rank_U: np.ndarray) -> np.ndarray:
    """Each unit's weight raises the ranks above it by one, and those of its ties by half."""
    distinct, group_U = np.unique(values_U, return_inverse=True)
    sums = np.bincount(group_U.reshape(-1), by_rank_U, len(distinct))
    above = np.append(np.cumsum(sums[::-1])[::-1][1:], 0.0)
    return (above + sums / 2)[group_U.reshape(-1)]


def _standardised(values_U: np.ndarray) -> np.ndarray:
    return (values_U - values_U.mean()) / values_U.std()


def mean_over_outputs(slope: Slope, predictions: Predictions, targets: Targets) -> np.ndarray:
    """Of a figure that is the mean over outputs.

    Args:
        slope: how each unit moves the figure of one output: (predicted (U,), true (U,)) fp64 -> (U,).
        predictions: `values` (U,) or (U, C).
        targets: `values` of the same shape.

    Returns:
        (U,) fp64.
    """
    predicted_UC = predictions.values.reshape(len(predictions.values), -1).astype(np.float64)
    true_UC = targets.values.reshape(predicted_UC.shape).astype(np.float64)
    outputs = range(predicted_UC.shape[1])
    return np.mean([slope(predicted_UC[:, output], true_UC[:, output]) for output in outputs], axis=0)


def of_calibration(predictions: Predictions, targets: Targets) -> np.ndarray:
    """Of the expected calibration error; every probability is finite."""
    confidence_U, bins_U = bins_of(predictions)
    gaps_U = (predictions.values == targets.values) - confidence_U
    by_bin = np.bincount(bins_U, gaps_U)
    return (np.sign(by_bin)[bins_U] * gaps_U - np.abs(by_bin).sum() / len(gaps_U)) / len(gaps_U)
