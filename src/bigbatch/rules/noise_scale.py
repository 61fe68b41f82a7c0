"""How large a batch is worth using: the gradient noise scale, from the gradients of parts of a batch.

    B_simple = trace(Sigma) / |G|^2

Sigma is the covariance of one sample's gradient, G the gradient of all data. While a batch is much smaller than
B_simple, doubling it almost halves the updates; much larger, it hardly helps. Both numbers are estimated without bias
from the gradients of k parts of one batch, and averaged apart: the mean of ratios is no estimate of the ratio of means.

Source: McCandlish et al. 2018, arXiv 1812.06162, appendix A. Differs from it: k parts of unequal size instead of two
batches, averages that forget by samples instead of updates, and an interval (`fieller`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np

WHOLE, ADAM = "whole", "adam"
"""Of all parameters: as they are, and divided by what Adam divides by. Other names are groups of parameters."""
FEWEST = 30
"""Measurements from which on there is an interval."""
CONFIDENCE = 0.95
Numbers: TypeAlias = "float | np.ndarray"
"""One, or many side by side."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One measurement, unbiased: either number may be negative, and must stay so until it is averaged."""

    trace: Numbers
    """Of trace(Sigma)."""
    square: Numbers
    """Of |G|^2."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """What is known of a noise scale, in samples."""

    scale: float
    """B_simple; infinite when no gradient could be told from the noise."""
    low: float | None
    """Smallest value that the measurements allow (95 %); None before there are `FEWEST`."""
    high: float | None
    """Largest one; infinite: larger than measurable."""
    measurements: int


def estimate(weighted_squares: Numbers, square: Numbers, parts: int, samples: int) -> Estimate:
    """Both numbers from the sums that remain of k parts with n_i samples each, N together.

        trace = (sum_i w_i |g_i|^2 - |g|^2) N / (k - 1)      square = |g|^2 - trace / N

    with w_i = n_i / N and g = sum_i w_i g_i. Where the backward pass has divided by N already, what part i adds to the
    gradient is c_i = w_i g_i: then w_i |g_i|^2 = |c_i|^2 / w_i.

    Args:
        weighted_squares: sum_i w_i |g_i|^2.
        square: |g|^2, of the whole batch.
        parts: k, at least 2.
        samples: N.

    Example:
        Two samples whose gradients are 1 and 3:

        >>> estimate((1 + 9) / 2, 2**2, parts=2, samples=2)
        Estimate(trace=2.0, square=3.0)
    """
    trace = (weighted_squares - square) * samples / (parts - 1)
    return Estimate(trace=trace, square=square - trace / samples)


def estimate_of(means_KD: np.ndarray, sizes_K: Sequence[int]) -> Estimate:
    """`estimate` from the mean gradients of the parts themselves (..., K, D)."""
    sizes = np.asarray(sizes_K, np.float64)
    weights_K = sizes / sizes.sum()
    weighted_squares = (weights_K * np.square(means_KD).sum(-1)).sum(-1)
    square = np.square((weights_K[:, None] * means_KD).sum(-2)).sum(-1)
    return estimate(weighted_squares, square, len(sizes), int(sizes.sum()))


def part_sizes(samples: int, parts: int) -> list[int]:
    """Samples of each part: as equal as can be, at least one each."""
    parts = min(parts, samples)
    return [samples // parts + (part < samples % parts) for part in range(parts)]


def finite_data(batch: int, data: int) -> float:
    """What is left of the noise of a mean over `batch` samples when they are drawn from `data` without replacement.

    (data - batch) / (data - 1)
    """
    return max(0, data - batch) / (data - 1) if data > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Average:
    """Exponential averages of both numbers, apart, with their covariance.

    Sums over measurements with the weight 0.5^(samples since then / half-life).

    Numbers, or arrays of many averages side by side.
    """

    count: int = 0
    """Measurements so far."""
    weight: float = 0.0
    weight_square: float = 0.0
    trace: Numbers = 0.0
    square: Numbers = 0.0
    trace_trace: Numbers = 0.0
    trace_square: Numbers = 0.0
    square_square: Numbers = 0.0

    def after(self, new: Estimate, decay: float) -> Average:
        """With one measurement more; the older ones count `decay` of what they did."""
        return Average(
            count=self.count + 1,
            weight=self.weight * decay + 1,
            weight_square=self.weight_square * decay**2 + 1,
            trace=self.trace * decay + new.trace,
            square=self.square * decay + new.square,
            trace_trace=self.trace_trace * decay + new.trace * new.trace,
            trace_square=self.trace_square * decay + new.trace * new.square,
            square_square=self.square_square * decay + new.square * new.square,
        )

    def means(self) -> Estimate:
        """The debiased averages."""
        return Estimate(trace=self.trace / self.weight, square=self.square / self.weight)

    def scale(self) -> float:
        """B_simple, infinite when the average of |G|^2 is not positive."""
        return float(self.trace / self.square) if self.square > 0 else math.inf

    def bounds(self, confidence: float = CONFIDENCE) -> tuple[Numbers, Numbers]:
        """Smallest and largest ratio that these measurements allow (see `fieller`)."""
        mean = self.means()
        share = self.weight_square / self.weight**2  # 1 / effective number of measurements
        times = share / (1 - share)
        return fieller(
            mean,
            (self.trace_trace / self.weight - mean.trace**2) * times,
            (self.trace_square / self.weight - mean.trace * mean.square) * times,
            (self.square_square / self.weight - mean.square**2) * times,
            t_quantile(0.5 + confidence / 2, 1 / share - 1),
        )


def fieller(
    mean: Estimate, trace_variance: Numbers, covariance: Numbers, square_variance: Numbers, quantile: float
) -> tuple[Numbers, Numbers]:
    """Fieller's interval of the ratio trace / square of two correlated means.

    It holds every ratio r >= 0 with  (trace - r square)^2 <= q^2 Var(trace - r square).  Where `square` cannot be told
    from zero there is no largest one: infinite. |G|^2 is no negative number, so a negative mean counts as 0.

    Args:
        mean: both means, numbers or arrays.
        trace_variance: of the mean of trace.
        covariance: of the two means.
        square_variance: of the mean of square.
        quantile: q, of Student's t.

    Source: Fieller 1954, "Some problems in interval estimation".
    """
    trace, square = np.asarray(mean.trace, np.float64), np.maximum(mean.square, 0.0)
    a = square**2 - quantile**2 * square_variance
    b = trace * square - quantile**2 * covariance
    c = trace**2 - quantile**2 * trace_variance
    root = np.sqrt(np.maximum(b**2 - a * c, 0.0))
    bounded = a > 0
    below = np.where(bounded, a, np.minimum(a, -1e-300))
    # Open above: the smallest ratio is the positive root, if there is one on either side of zero.
    low = np.where(bounded | (c > 0), (b - root) / below, 0.0)
    high = np.where(bounded, (b + root) / below, np.inf)
    return np.maximum(low, 0.0), np.maximum(high, 0.0)


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t, to four digits from ten degrees of freedom on (Cornish and Fisher's expansion)."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))


# ---------------------------------------------------------------- what a run keeps: plain JSON

State = Mapping[str, Any]
"""`{"samples": …, "averages": {name: …}}`, part of a checkpoint; empty before the first measurement."""


def advanced(
    state: State, new: Mapping[str, Estimate], samples: int, half_life_samples: float
) -> dict[str, object]:
    """The state after one measurement.

    Args:
        state: before; not changed.
        new: name -> what was measured; a name that is missing keeps its average.
        samples: consumed by the run so far.
        half_life_samples: after so many samples a measurement counts half.
    """
    decay = 0.5 ** ((samples - state["samples"]) / half_life_samples) if state else 1.0
    averages = dict(state["averages"]) if state else {}
    for name, measured in new.items():
        averages[name] = asdict(Average(**averages.get(name, {})).after(measured, decay))
    return {"samples": samples, "averages": averages}


def interval_of(state: State, name: str = WHOLE) -> Interval | None:
    """What a run's state says now; None before the first measurement. A pure function: the same on every rank."""
    stored = state["averages"].get(name) if state else None
    if stored is None:
        return None
    average = Average(**stored)
    low, high = average.bounds() if average.count >= FEWEST else (None, None)
    return Interval(
        scale=average.scale(),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        measurements=average.count,
    )


def names(state: State) -> list[str]:
    """What was measured so far: all parameters first, then groups in the order of the model."""
    return list(state["averages"]) if state else []
