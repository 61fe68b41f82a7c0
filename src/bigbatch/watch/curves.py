"""A figure over samples, kept in bounded memory: neighbours are put together, their least and greatest stay."""

from __future__ import annotations

from dataclasses import dataclass, field

from bigbatch.report.scales import Points

MOST_PLACES = 1024
"""More of them than a screen has columns to draw."""


@dataclass
class _Place:
    """Consecutive values drawn as one."""

    x: float
    """Samples, at the last of them."""
    total: float
    low: float
    high: float
    count: int = 1

    def join(self, other: _Place) -> None:
        self.x, self.total, self.count = other.x, self.total + other.total, self.count + other.count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass
class Curve:
    """One figure. Once it holds `MOST_PLACES` places, each two become one. Example:

    >>> curve = Curve()
    >>> for x in range(5000):
    ...     curve.add(x, 7.0 if x == 4321 else 1.0)
    >>> len(curve.means()) <= MOST_PLACES, max(y for _, y in curve.extremes())
    (True, 7.0)
    """

    width: int = 1
    """Values that a place holds."""
    last: float | None = None
    count: int = 0
    total: float = 0.0
    _places: list[_Place] = field(default_factory=list)

    def add(self, x: float, y: float) -> None:
        """One more value, at `x` samples; `x` never falls."""
        self.last, self.count, self.total = y, self.count + 1, self.total + y
        new = _Place(x, y, y, y)
        if self._places and self._places[-1].count < self.width:
            self._places[-1].join(new)
            return
        self._places.append(new)
        if len(self._places) > MOST_PLACES:
            for left, right in zip(self._places[::2], self._places[1::2], strict=False):
                left.join(right)
            self._places = self._places[::2]
            self.width *= 2

    def means(self) -> Points:
        """(samples, mean) of each place."""
        return [(place.x, place.total / place.count) for place in self._places]

    def extremes(self) -> Points:
        """(samples, value), the least and the greatest of each place: every peak shows."""
        if self.width == 1:
            return self.means()
        return [(place.x, y) for place in self._places for y in dict.fromkeys((place.low, place.high))]
