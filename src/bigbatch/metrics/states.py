"""Metrics as states that can be merged: counts, exact sums, calibration bins, or the whole split.

Counts are int64 and sums are exact, so neither depends on how the stream was cut; figures of ranks and
correlations keep the predictions and see them whole. Units of weight 0 are left out; other weights are ignored.

Shapes: U units, C classes or outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.sums import Parts, add_parts, exact_parts, total
from bigbatch.protocols import MetricFunction
from bigbatch.samples import Predictions, Targets

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


def bins_of(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Largest probability of each unit (U,) and the bin of the calibration error that it lies in (U,)."""
    shares_U = shares_of(predictions).max(-1)
    bins_U = np.ceil(np.nan_to_num(shares_U) * BINS).astype(np.int64) - 1
    return shares_U, np.clip(bins_U, 0, BINS - 1)


def shares_of(predictions: Predictions) -> np.ndarray:
    """Probabilities of a classification (U, C)."""
    assert predictions.probabilities is not None, "classification has probabilities"
    return predictions.probabilities


# ---------------------------------------------------------------- kinds of state


@dataclass(frozen=True, kw_only=True)
class CountMetric:
    """A figure of the counts per class; the state is (3, C) int64."""

    name: str
    figure: Callable[[np.ndarray], float | Mapping[str, float]]
    larger_is_better: bool = True
    reported: tuple[str, ...] = ()
    """Names of the figures, where it gives several."""
    own = False

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
    own = False

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
    slope: Callable[[Predictions, Targets], np.ndarray] | None = None
    """How the figure, where defined, moves with the weight of each unit (U,) (`metrics.slopes`); None: unknown."""
    own: bool = False
    """Whether the function is the user's."""

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
    confidence: float | None
    """Mean largest probability; None without units."""
    accuracy: float | None
    """Share of correct units; None without units."""


@dataclass(frozen=True, kw_only=True)
class CalibrationMetric:
    """Expected calibration error: mean over units of |accuracy - confidence| of their bin (Guo et al. 2017)."""

    name: str = "expected_calibration_error"
    larger_is_better: bool = False
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> CalibrationState:
        """Bins of these units; a probability that is not a number is in none."""
        predictions, targets = counted(predictions, targets)
        shares_U, bins_U = bins_of(predictions)
        correct_U = predictions.values == targets.values
        finite_U = np.isfinite(shares_U)
        shares_U, bins_U, correct_U = shares_U[finite_U], bins_U[finite_U], correct_U[finite_U]
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
            confidence, accuracy = (total(parts) / units, correct / units) if units else (None, None)
            found.append(CalibrationBin(bin / BINS, (bin + 1) / BINS, units, confidence, accuracy))
        return tuple(found)

    def value(self, state: CalibrationState) -> float:
        """The error, 0 to 1."""
        units = int(state.counts[0].sum())
        if not units:
            return Undefined("no samples with finite probabilities")
        gaps = [abs(total(parts) - int(state.counts[1, bin])) for bin, parts in enumerate(state.confidence)]
        return total(exact_parts(gaps)) / units
