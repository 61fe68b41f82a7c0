"""Is one evaluation better than another on the same rows, or is it chance?

Each row has a score under both, larger is better; only the differences d of a row's two scores count.

::

    scores are 0 or 1:    p = P(X >= better),  X ~ Binomial(better + worse, 1/2)      rows that changed (McNemar, exact)
    other numbers:        p = P(T >= mean(d) / (sd(d) / sqrt(n))),  T ~ Student's t, n - 1 degrees of freedom
    not all are finite:   as for 0 and 1, of which of its two scores is the larger one

All are one-sided: p is how likely a difference at least as large is where neither is better. Of several candidates the
best one looks good by its choice alone: `best_of` says how likely that is.

References:
    McNemar 1947, Note on the sampling error of the difference between correlated proportions.
    Student 1908, The probable error of a mean.
    Dietterich 1998, Approximate statistical tests for comparing supervised classification learning algorithms.
    Sidak 1967, Rectangular confidence regions for the means of multivariate normal distributions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

BEYOND_CHANCE = 0.05
"""p below which a difference is held to be none of chance."""
PLAUSIBLE = 0.3
"""p up to which an evaluation counts as an improvement while training goes on: stopping too early costs most."""

_WHOLE_NUMBERS = 1_000


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two evaluations on the same rows: the later or other one against the one before."""

    difference: float
    """Mean over rows of (now - then): above 0 where `now` is better. NaN where scores are not finite."""
    error: float
    """Standard error of it. NaN for fewer than two rows."""
    p: float
    """One-sided: how likely a difference at least as large is if `now` is no better than `then`."""
    rows: int
    changed: int
    """Rows whose two scores differ."""

    @property
    def plausible(self) -> bool:
        """Whether `now` counts as an improvement while training goes on; where it does not, it is at a plateau."""
        return self.p <= PLAUSIBLE


def paired(then: ArrayLike, now: ArrayLike) -> Paired:
    """Compare the scores of the same rows, in the same order.

    Args:
        then: (n,) scores, larger is better.
        now: (n,) scores.

    Raises:
        ValueError: they are not of the same rows.

    Example:
        >>> found = paired([1, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1])
        >>> found.changed, found.p
        (4, 0.0625)
        >>> paired([0.5, 0.25], [0.5, 0.25]).p
        1.0
    """
    then_n, now_n = np.asarray(then, np.float64), np.asarray(now, np.float64)
    if then_n.shape != now_n.shape or then_n.ndim != 1:
        raise ValueError(f"scores of {then_n.shape} and {now_n.shape}; expected those of the same rows")
    with np.errstate(invalid="ignore"):
        differences_n = now_n - then_n
    rows = len(differences_n)
    finite = bool(np.isfinite(differences_n).all())
    # NaN is worse than any number, and no better than NaN.
    better = int(np.count_nonzero((now_n > then_n) | (np.isnan(then_n) & ~np.isnan(now_n))))
    worse = int(np.count_nonzero((now_n < then_n) | (np.isnan(now_n) & ~np.isnan(then_n))))
    difference = float(differences_n.mean()) if finite and rows else math.nan
    error = float(differences_n.std(ddof=1) / math.sqrt(rows)) if finite and rows > 1 else math.nan
    binary = bool(np.isin(then_n, (0.0, 1.0)).all() and np.isin(now_n, (0.0, 1.0)).all())
    if binary or not finite or not error > 0.0:  # no spread: every row says the same
        p = sign_p(better, worse)
    else:
        p = student_p(difference / error, rows - 1)
    return Paired(difference=difference, error=error, p=p, rows=rows, changed=better + worse)


def best_of(p: float, candidates: int) -> float:
    """How likely the best of several candidates looks this good, if none is better (Sidak; exact for independent ones).

    Evaluations of one run are alike, so the truth lies between `p` and this.

    Example:
        >>> round(best_of(0.05, 10), 3)
        0.401
    """
    return 1.0 if p >= 1.0 else -math.expm1(max(candidates, 1) * math.log1p(-p))


def sign_p(better: int, worse: int) -> float:
    """P(X >= better) of a fair coin thrown (better + worse) times; exact, beyond 1,000 throws to 8 digits.

    Example:
        >>> sign_p(3, 0), sign_p(0, 0)
        (0.125, 1.0)
    """
    throws = better + worse
    if not better:
        return 1.0
    if throws <= _WHOLE_NUMBERS:
        return sum(math.comb(throws, heads) for heads in range(better, throws + 1)) / 2**throws
    logs = np.concatenate([np.zeros(1), np.cumsum(np.log(np.arange(1, throws + 1, dtype=np.float64)))])
    heads = np.arange(better, throws + 1)
    terms = np.exp(logs[throws] - logs[heads] - logs[throws - heads] - throws * math.log(2.0))
    return min(1.0, math.fsum(terms.tolist()))


def student_p(t: float, degrees: int) -> float:
    """P(T >= t) of Student's distribution with whole degrees of freedom, by its finite series.

    Reference:
        Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(degrees))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    # Products of (2 k - 1) / (2 k) for even, of 2 k / (2 k + 1) for odd degrees, and of powers of the cosine.
    odd = degrees % 2
    k = np.arange(1, (degrees - odd) // 2, dtype=np.float64)
    ratios = (2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k)) * square
    series = np.concatenate([np.ones(1), np.cumprod(ratios)])
    if not odd:
        between = sine * math.fsum(series.tolist())
    else:
        tail = sine * math.sqrt(square) * math.fsum(series.tolist()) if degrees > 1 else 0.0
        between = (angle + tail) * 2.0 / math.pi
    return min(1.0, max(0.0, 0.5 - 0.5 * between))
