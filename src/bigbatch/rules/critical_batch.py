"""What a larger batch saves in updates and costs in samples, fitted to runs that were trained to a target.

::

    S = S_min (1 + B_c / B)        updates
    E = E_min (1 + B / B_c)        samples            B_c = E_min / S_min

Both are one curve, since E = S B: (S / S_min - 1) (E / E_min - 1) = 1. At B = B_c a run takes twice the fewest
updates and twice the fewest samples; far below, twice the batch halves the updates for nothing; far above, it saves
none.

Reference:
    McCandlish et al. 2018, An Empirical Model of Large-Batch Training, section 2.3. Differs from it: fitted in the
    logarithm, with the runs that never reached the target as bounds, and with intervals by bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_REACH = 1e3
"""B_c is looked for up to this many times beyond the batches that were tried."""
_GRID = 61
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run, trained until the target or until its samples were used up."""

    batch: float
    """B, samples of an update."""
    samples: float
    """E until the target was reached; of a run that never did, all it had."""
    reached: bool = True
    seed: str = ""
    """Runs of one batch with different seeds are repetitions."""

    @property
    def updates(self) -> float:
        """S."""
        return self.samples / self.batch


@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """The fitted curve.

    Example:
        >>> curve = Tradeoff(updates_min=100.0, samples_min=10_000.0)
        >>> curve.critical_batch, curve.updates(100), curve.samples(100)
        (100.0, 200.0, 20000.0)
    """

    updates_min: float
    """S_min: updates with an endless batch. 0 where no batch was large enough to show it."""
    samples_min: float
    """E_min: samples with the smallest of batches. 0 where no batch was small enough to show it."""
    bounded: bool = True
    """False: the batches that were tried lie on one side of B_c, which is only known to lie beyond."""
    error: float = 0.0
    """Root mean square of ln(measured / fitted) over the runs: 0.1 is about 10 %."""

    @property
    def critical_batch(self) -> float:
        """B_c = E_min / S_min, in samples."""
        return self.samples_min / self.updates_min if self.updates_min else math.inf

    def updates(self, batch: float) -> float:
        """S at a batch."""
        return self.updates_min + self.samples_min / batch

    def samples(self, batch: float) -> float:
        """E at a batch."""
        return self.samples_min + self.updates_min * batch


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Between two quantiles of the bootstrap; `high` may be infinite, `low` 0."""

    low: float
    high: float


def fit_tradeoff(trials: Sequence[Trial]) -> Tradeoff:
    """Least squares in the logarithm: sum (ln S - ln S_min - ln(1 + B_c / B))^2, over ln S_min and ln B_c.

    The residuals of E are the same numbers, so that fitting both together is fitting one. A run that never reached
    the target counts on one side only: the curve is not to lie below the samples that it had.

    Args:
        trials: runs at two batches or more that reached the target.

    Raises:
        ValueError: fewer than two batches reached it.
    """
    reached = sorted({trial.batch for trial in trials if trial.reached})
    if len(reached) < 2:
        raise ValueError(f"a fit needs runs at two batches that reached the target; found {len(reached)}")
    batch = np.array([trial.batch for trial in trials], dtype=np.float64)
    updates = np.array([trial.updates for trial in trials], dtype=np.float64)
    bound = np.array([not trial.reached for trial in trials])
    low, high = math.log(batch.min() / _REACH), math.log(batch.max() * _REACH)
    grid = np.linspace(low, high, _GRID)
    best = int(np.argmin(_losses(grid, batch, updates, bound)))
    around = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    log_critical = _golden(lambda point: _loss(point, batch, updates, bound)[0], *around)
    loss, log_updates_min = _loss(log_critical, batch, updates, bound)
    updates_min, critical = math.exp(log_updates_min), math.exp(log_critical)
    return Tradeoff(
        updates_min=updates_min,
        samples_min=updates_min * critical,
        bounded=batch.min() / _REACH * 2 < critical < batch.max() * _REACH / 2,
        error=math.sqrt(loss / len(trials)),
    )


def bootstrap(
    trials: Sequence[Trial], *, rounds: int = 1000, coverage: float = 0.9, seed: int = 0
) -> dict[str, Interval] | None:
    """Intervals of `critical_batch`, `updates_min` and `samples_min`: each batch's seeds drawn anew, and fitted anew.

    Args:
        trials: as for `fit_tradeoff`.
        rounds: fits.
        coverage: share of the fits that lie inside.
        seed: of the drawing.

    Returns:
        None where no batch has two runs: there is no spread to draw from.
    """
    by_batch: dict[float, list[Trial]] = {}
    for trial in trials:
        by_batch.setdefault(trial.batch, []).append(trial)
    if all(len(found) < 2 for found in by_batch.values()):
        return None
    random = np.random.default_rng(seed)
    fits = []
    for _ in range(rounds):
        drawn = [
            found[index]
            for found in by_batch.values()
            for index in random.integers(len(found), size=len(found))
        ]
        try:
            fits.append(fit_tradeoff(drawn))
        except ValueError:  # too few of those drawn reached the target
            continue
    if not fits:
        return None
    return {
        "critical_batch": _interval(
            [fit.critical_batch if fit.bounded else _beyond(fit, trials) for fit in fits], coverage
        ),
        "updates_min": _interval([fit.updates_min for fit in fits], coverage),
        "samples_min": _interval([fit.samples_min for fit in fits], coverage),
    }


def cheapest_batch(tradeoff: Tradeoff, seconds: Mapping[float, float], *, slack: float = 0.05) -> float:
    """The smallest of the batches whose time to the target is at most `slack` above the least.

    Smaller batches take fewer samples; so of batches that are about as fast, the smallest is the cheapest.

    Args:
        tradeoff: the curve.
        seconds: batch -> seconds of one update, as measured.
        slack: share of the least time that is given away for fewer samples.
    """
    times = {batch: tradeoff.updates(batch) * one for batch, one in seconds.items()}
    least = min(times.values())
    return min(batch for batch, time in times.items() if time <= least * (1 + slack))


def _beyond(fit: Tradeoff, trials: Sequence[Trial]) -> float:
    """Of a fit at an end of the search: 0 or infinity."""
    return math.inf if fit.critical_batch > max(trial.batch for trial in trials) else 0.0


def _interval(values: Sequence[float], coverage: float) -> Interval:
    """Order statistics: infinite values have a rank like any other, but no mean with their neighbour."""
    low, high = np.quantile(values, [(1 - coverage) / 2, (1 + coverage) / 2], method="nearest")
    return Interval(low=float(low), high=float(high))


def _loss(
    log_critical: float, batch: Floats, updates: Floats, bound: NDArray[np.bool_]
) -> tuple[float, float]:
    """Least sum of squares at a given B_c, and ln S_min there.

    Runs that only bound the curve join the mean while it lies below them: a convex problem, solved from below by
    letting them in one after the other, the farthest first.
    """
    level = np.log(updates) - np.log1p(np.exp(log_critical) / batch)
    inside = ~bound
    mean = float(level[inside].mean())
    for index in sorted(np.flatnonzero(bound), key=lambda each: -level[each]):
        if level[index] <= mean:
            break
        inside[index] = True
        mean = float(level[inside].mean())
    return float(((level[inside] - mean) ** 2).sum()), mean


def _losses(grid: Floats, batch: Floats, updates: Floats, bound: NDArray[np.bool_]) -> Floats:
    """`_loss` at many B_c; at once where nothing is only a bound."""
    if bound.any():
        return np.array([_loss(float(point), batch, updates, bound)[0] for point in grid])
    level_GN = np.log(updates) - np.log1p(np.exp(grid)[:, None] / batch)
    return level_GN.var(axis=1) * len(batch)


def _golden(function: Callable[[float], float], low: float, high: float, tolerance: float = 1e-8) -> float:
    """The minimum of a function with one in [low, high], by golden section."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > tolerance:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
