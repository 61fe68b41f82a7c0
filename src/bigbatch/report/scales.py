"""Ticks, scales and thinning: the arithmetic under a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bigbatch.report.text import scientific

Points = list[tuple[float, float]]


def nice_step(span: float, steps: int) -> float:
    """The smallest of 1, 2, 5 x 10^k that cuts `span` into at most about `steps` parts."""
    if not 1e-280 < span < math.inf:  # below, powers of ten underflow
        return 1.0
    rough = span / max(1, steps)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough * (1 - 1e-9))


def ticks(low: float, high: float, steps: int) -> list[float]:
    """Round numbers inside [low, high], evenly spaced.

    Args:
        low: end of the range.
        high: the other end.
        steps: about how many there are to be.
    """
    step = nice_step(high - low, steps)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_label(value: float, step: float) -> str:
    """`0`, `0.25`, `2k`, `1.5M`, `5e-5`: as many digits as the step between ticks needs."""
    if value == 0:
        return "0"
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and step >= size / 1000:
            return _decimals(value / size, step / size) + suffix
    if step < 1e-3:
        return scientific(value)
    return _decimals(value, step)


def _decimals(value: float, step: float) -> str:
    digits = next((count for count in range(7) if math.isclose(round(step, count), step, rel_tol=1e-6)), 7)
    return f"{value:.{digits}f}"


@dataclass(frozen=True)
class Scale:
    """Data -> pixels along one direction."""

    low: float
    high: float
    start_px: float
    end_px: float
    kind: Literal["linear", "log"] = "linear"

    def __call__(self, value: float) -> float:
        low, high = self._warp(self.low), self._warp(self.high)
        part = (self._warp(value) - low) / (high - low) if high != low else 0.5
        return self.start_px + part * (self.end_px - self.start_px)

    def _warp(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.kind == "log" else value

    def labelled_ticks(self, steps: int) -> list[tuple[float, str]]:
        """Tick values and their labels; a logarithmic scale ticks at 1, 2 and 5 of each decade."""
        if self.kind == "linear":
            step = nice_step(self.high - self.low, steps)
            return [(value, tick_label(value, step)) for value in ticks(self.low, self.high, steps)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for parts in ((1, 2, 5), (1, 3), (1,)):
            values = [part * 10.0**decade for decade in decades for part in parts]
            values = [value for value in values if self.low <= value <= self.high]
            if len(values) <= steps + 2:
                break
        return [(value, tick_label(value, value)) for value in values]


def padded_range(values: Sequence[float], *, zero: bool) -> tuple[float, float]:
    """A range a little wider than the values; from 0 when asked and all are positive."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if zero and low >= 0:
        return 0.0, (high if high > 1e-250 else 1.0) * 1.06
    margin = (high - low) * 0.06 or abs(high) * 0.1
    if margin < 1e-250:  # nothing to tell apart; powers of ten underflow here
        margin = 1.0
    return low - margin, high + margin


def thinned(points: Points, limit: int = 400) -> Points:
    """At most about `limit` points that still show every peak: least and greatest of each bucket."""
    if len(points) <= limit:
        return points
    buckets = limit // 2
    kept: Points = [points[0]]
    for number in range(buckets):
        bucket = points[number * len(points) // buckets : (number + 1) * len(points) // buckets]
        least, greatest = min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])
        kept.extend(sorted({least, greatest}))
    return [*kept, points[-1]]


def smoothed(points: Points, window: int) -> Points:
    """Centred moving average over `window` points, narrower at both ends so that nothing is shifted."""
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    result = []
    for number, (position, _) in enumerate(points):
        half = min(window // 2, number, len(points) - 1 - number)
        total = sums[number + half + 1] - sums[number - half]
        result.append((position, total / (2 * half + 1)))
    return result
