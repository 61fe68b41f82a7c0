"""What each row of a split adds to a figure: one number a row, larger is better, so that two evaluations can be paired.

::

    a mean over rows or units           the row's own part of it; their mean over rows is the figure
      (accuracy, also of pairs, mse, perplexity, mrr@10, the loss)
    a function of counts, of ranks      figure + n d figure / d weight of this row: the infinitesimal jackknife's
      or of squares (f1_macro,          pseudo-value; their mean is the figure
      entity F1, ROC AUC, r2, …)
    anything else                       none: the row's part of the loss stands for it
      (a metric of your own)

Leaving whole rows out instead, as the plain jackknife does, overstates the spread where a class has a handful of rows:
with 198 rows of 77 classes a difference of F1 macro that chance makes once in 20 times passed for one in 300.

Figures of which less is better are taken negative. Rows without a unit that counts are left out, the same ones in every
evaluation.

Reference:
    Jaeckel 1972, The infinitesimal jackknife; Efron 1982, The jackknife, the bootstrap and other resampling plans.

Shapes: U units, N rows that count, C classes or entity types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from bigbatch.data.tags import OUTSIDE
from bigbatch.metrics import figures
from bigbatch.metrics.contact import ContactMetric
from bigbatch.metrics.entities import EntityMetric, WordMetric, entities, words_of_units
from bigbatch.metrics.listwise import ListMetric
from bigbatch.metrics.match import RankMetric
from bigbatch.metrics.naming import reported_names
from bigbatch.metrics.perplexity import BitsPerByte, nll_U
from bigbatch.metrics.prefer import PairMetric
from bigbatch.metrics.slopes import of_calibration
from bigbatch.metrics.span import is_of_texts
from bigbatch.metrics.states import CalibrationMetric, CountMetric, MeanMetric, WholeMetric, counted, joined
from bigbatch.protocols import Metric
from bigbatch.samples import Predictions, Targets

_BLOCK_COUNTS = 2_000_000
"""Counts of rows that exist at a time."""
_STEP = 1e-3
"""Weight that a row gains and loses for its derivative."""
_DIGITS = 6
"""Pseudo-values are rounded to these: what is a whole number in exact arithmetic is one here."""


class RowScorer(Protocol):
    """Takes in whole rows of a split, in order."""

    def add(self, predictions: Predictions, targets: Targets, rows_U: np.ndarray) -> None:
        """Take these units.

        Args:
            predictions: of units of whole rows.
            targets: of the same.
            rows_U: (U,) int64 the row of each, numbered from 0, ascending.
        """
        ...

    def scores(self) -> np.ndarray:
        """Of every row that counts (N,) float64."""
        ...


def scorer_of(name: str, metrics: Sequence[Metric]) -> RowScorer | None:
    """Who scores rows by a figure; None where only the loss can stand for it."""
    metric = next((each for each in metrics if name in reported_names(each)), None)
    if isinstance(metric, MeanMetric):
        return _Means(metric.per_unit, metric.larger_is_better)
    if isinstance(metric, BitsPerByte):
        return _Means(nll_U, larger_is_better=False)
    if isinstance(metric, CountMetric) and metric.figure is figures.accuracy:
        return _Means(_right, larger_is_better=True)
    if isinstance(metric, (CountMetric, WordMetric, EntityMetric)):
        return _Counts(name, metric)
    if isinstance(metric, WholeMetric) and metric.slope is not None:
        return _Slopes(lambda *of: metric.value(metric.add(*of)), metric.slope, metric.larger_is_better)
    if isinstance(metric, CalibrationMetric):
        return _Slopes(lambda *of: metric.value(metric.add(*of)), of_calibration, metric.larger_is_better)
    if isinstance(metric, PairMetric):
        return _Each(metric.per_pair)
    if isinstance(metric, ListMetric):
        return _Each(metric.per_query)
    if isinstance(metric, ContactMetric):
        return _Each(metric.per_chain)
    return _Queries(metric) if isinstance(metric, RankMetric) else None


def scored_by_itself(name: str, metrics: Sequence[Metric]) -> bool:
    """Whether rows are scored by this figure itself, not by the loss in its place."""
    texts = any(is_of_texts(metric) and metric.name == name for metric in metrics)
    return name == "loss" or texts or scorer_of(name, metrics) is not None


class RowSums:
    """Sums of units by row, and how many rows count."""

    def __init__(self) -> None:
        self._sums: list[np.ndarray] = []

    def add(self, values_U: np.ndarray, rows_U: np.ndarray, counts_U: np.ndarray) -> None:
        """Take the units of whole rows.

        Args:
            values_U: (U,) fp64, what is summed.
            rows_U: (U,) int64 the row of each, numbered from 0, ascending.
            counts_U: (U,) bool whether a unit counts; so does a row one of whose units does.
        """
        rows = int(rows_U[-1]) + 1 if len(rows_U) else 0
        sums = np.bincount(rows_U, np.where(counts_U, values_U, 0.0), rows)
        self._sums.append(sums[np.bincount(rows_U[counts_U], minlength=rows) > 0])

    def parts(self, denominator: float) -> np.ndarray:
        """(N,) float64, whose mean is the sum of all values over the denominator."""
        sums_N = np.concatenate(self._sums or [np.empty(0)])
        return sums_N * (len(sums_N) / denominator) if denominator else np.empty(0)


# ---------------------------------------------------------------- means


class _Means:
    def __init__(self, per_unit: Any, larger_is_better: bool) -> None:
        self._per_unit = per_unit
        self._sign = 1.0 if larger_is_better else -1.0
        self._sums = RowSums()
        self._units = 0

    def add(self, predictions: Predictions, targets: Targets, rows_U: np.ndarray) -> None:
        counts_U = np.asarray(targets.weights) > 0
        values_U = np.zeros(len(rows_U))
        values_U[counts_U] = self._per_unit(*counted(predictions, targets))
        self._sums.add(values_U, rows_U, counts_U)
        self._units += int(counts_U.sum())

    def scores(self) -> np.ndarray:
        return self._sign * self._sums.parts(self._units)


def _right(predictions: Predictions, targets: Targets) -> np.ndarray:
    return (predictions.values == targets.values).astype(np.float64)


class _Each:
    """A number of each that counts, in order: a pair, a chain."""

    def __init__(self, values: Callable[[Predictions, Targets], np.ndarray]) -> None:
        self._of = values
        self._values = [np.empty(0)]

    def add(self, predictions: Predictions, targets: Targets, rows_U: np.ndarray) -> None:
        del rows_U
        self._values.append(self._of(predictions, targets))

    def scores(self) -> np.ndarray:
        return np.concatenate(self._values)


class _Queries:
    """Of each distinct query, in order of occurrence."""

    def __init__(self, metric: RankMetric) -> None:
        self._metric = metric
        self._chunks: tuple[tuple[Predictions, Targets], ...] = ()

    def add(self, predictions: Predictions, targets: Targets, rows_U: np.ndarray) -> None:
        del rows_U
        self._chunks += ((predictions, targets),)

    def scores(self) -> np.ndarray:
        return self._metric.per_query(self._chunks)


class _Slopes:
    """Of figures that see the whole split at once."""

    def __init__(
        self,
        value: Callable[[Predictions, Targets], float],
        slope: Callable[[Predictions, Targets], np.ndarray],
        larger_is_better: bool,
    ) -> None:
        self._value, self._slope = value, slope
        self._sign = 1.0 if larger_is_better else -1.0
        self._chunks: tuple[tuple[Predictions, Targets], ...] = ()
        self._rows: list[np.ndarray] = []
        self._begun = 0

    def add(self, predictions: Predictions, targets: Targets, rows_U: np.ndarray) -> None:
        self._rows.append(rows_U[np.asarray(targets.weights) > 0] + self._begun)
        self._chunks += (counted(predictions, targets),)
        self._begun += int(rows_U[-1]) + 1 if len(rows_U) else 0

    def scores(self) -> np.ndarray:
        rows_U = np.concatenate(self._rows or [np.empty(0, np.int64)])
        if not len(rows_U):
            return np.empty(0)
        predictions, targets = joined(self._chunks)
        value = self._value(predictions, targets)
        if not math.isfinite(value) or isinstance(value, figures.Idle):
            return np.empty(0)  # it does not move
        _, rows_U = np.unique(rows_U, return_inverse=True)  # those that count
        by_row = np.bincount(rows_U.reshape(-1), self._slope(predictions, targets))
        return (value + len(by_row) * by_row) * self._sign


# ---------------------------------------------------------------- counts

Cells = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What is counted, one entry a count: its row; 0 right, 1 predicted, 2 true; its class."""


class _Counts:
    """Keeps the number of each row's pattern of counts; most rows share a few patterns."""

    def __init__(self, name: str, metric: CountMetric | WordMetric | EntityMetric) -> None:
        self._name = name
        self._metric = metric
        self._patterns: dict[bytes, int] = {}
        self._patterns_of_rows: list[np.ndarray] = []
        self._width = 0

    def add(self, predictions: Predictions, targets: Targets, rows_U: np.ndarray) -> None:
        (rows_E, kinds_E, classes_E), counted_rows = _cells(self._metric, predictions, targets, rows_U)
        self._width = width = _width(self._metric, predictions)
        rows_at_once = max(1, _BLOCK_COUNTS // (3 * width))
        order_E = np.argsort(rows_E, kind="stable")
        places_E = np.searchsorted(counted_rows, rows_E[order_E])
        cells_E = (kinds_E * width + classes_E)[order_E]
        for first in range(0, len(counted_rows), rows_at_once):
            rows = min(rows_at_once, len(counted_rows) - first)
            begin, end = np.searchsorted(places_E, [first, first + rows])
            flat_E = (places_E[begin:end] - first) * 3 * width + cells_E[begin:end]
            counts = np.bincount(flat_E, minlength=rows * 3 * width).astype(np.int32).reshape(rows, 3 * width)
            found, inverse = np.unique(counts, axis=0, return_inverse=True)
            numbers = [self._patterns.setdefault(each.tobytes(), len(self._patterns)) for each in found]
            self._patterns_of_rows.append(np.array(numbers, np.int32)[inverse.reshape(-1)])

    def scores(self) -> np.ndarray:
        patterns_N = np.concatenate(self._patterns_of_rows or [np.empty(0, np.int32)])
        rows = len(patterns_N)
        if not rows:
            return np.empty(0)
        times = np.bincount(patterns_N, minlength=len(self._patterns))
        whole = sum(
            (count * each for count, each in zip(times.tolist(), self._all(), strict=True)),
            np.zeros((3, self._width), np.int64),
        )
        slopes = [
            (self._figure(whole + _STEP * each) - self._figure(whole - _STEP * each)) / (2 * _STEP)
            for each in self._all()
        ]
        return np.round(self._figure(whole) + rows * np.array(slopes), _DIGITS)[patterns_N]

    def _all(self) -> Iterator[np.ndarray]:
        for pattern in self._patterns:
            yield np.frombuffer(pattern, np.int32).reshape(3, self._width).astype(np.int64)

    def _figure(self, counts_3C: np.ndarray) -> float:
        found = self._metric.figure(counts_3C)
        return float(found[self._name] if isinstance(found, Mapping) else found)


def _width(metric: CountMetric | WordMetric | EntityMetric, predictions: Predictions) -> int:
    if isinstance(metric, EntityMetric):
        return max(1, len(metric.scheme.types))
    return len(metric.tags) if isinstance(metric, WordMetric) else predictions.scores.shape[1]


def _cells(
    metric: CountMetric | WordMetric | EntityMetric,
    predictions: Predictions,
    targets: Targets,
    rows_U: np.ndarray,
) -> tuple[Cells, np.ndarray]:
    """What is counted of whole rows, as the metric counts it, and the rows that count, ascending."""
    if isinstance(metric, CountMetric):
        rows_U = rows_U[np.asarray(targets.weights) > 0]
        predictions, targets = counted(predictions, targets)
        if predictions.kind == "multi":
            return _of_labels(predictions.values, np.asarray(targets.values) > 0.5, rows_U), np.unique(rows_U)
        return _of_classes(predictions.values, targets.values.astype(np.int64), rows_U), np.unique(rows_U)
    if isinstance(metric, WordMetric):
        size = len(metric.tags)
        words = words_of_units(
            predictions, targets, metric.tags.index(OUTSIDE) if OUTSIDE in metric.tags else size
        )
        # A row is a sentence.
        rows_W = np.cumsum(words.starts_W) - 1
        rows_E, kinds_E, classes_E = _of_classes(words.found_W, words.true_W, rows_W)
        known_E = classes_E < size
        return (rows_E[known_E], kinds_E[known_E], classes_E[known_E]), np.unique(rows_W)
    words = words_of_units(predictions, targets, metric.outside)
    rows_W = np.cumsum(words.starts_W) - 1
    found_E3, true_E3 = (
        entities(tags_W, words.starts_W, metric.scheme) if len(tags_W) else np.empty((0, 3), np.int64)
        for tags_W in (words.found_W, words.true_W)
    )
    sizes = (len(metric.scheme.types), len(rows_W) + 1, len(rows_W) + 1)
    keys_found, keys_true = (np.ravel_multi_index(tuple(each.T), sizes) for each in (found_E3, true_E3))
    events = (found_E3[np.isin(keys_found, keys_true)], found_E3, true_E3)
    rows_E = np.concatenate([rows_W[each[:, 1]] for each in events])
    return (rows_E, _kinds(events), np.concatenate([each[:, 0] for each in events])), np.unique(rows_W)


def _of_classes(found_U: np.ndarray, true_U: np.ndarray, rows_U: np.ndarray) -> Cells:
    right_U = found_U == true_U
    events = (true_U[right_U], found_U, true_U)
    return np.concatenate([rows_U[right_U], rows_U, rows_U]), _kinds(events), np.concatenate(events)


def _of_labels(found_UC: np.ndarray, true_UC: np.ndarray, rows_U: np.ndarray) -> Cells:
    events = [np.nonzero(each) for each in (found_UC & true_UC, found_UC, true_UC)]
    rows_E = np.concatenate([rows_U[units] for units, _ in events])
    classes = [classes for _, classes in events]
    return rows_E, _kinds(classes), np.concatenate(classes)


def _kinds(events: Sequence[np.ndarray]) -> np.ndarray:
    return np.repeat(np.arange(3), [len(each) for each in events])
