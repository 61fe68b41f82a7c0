"""How far a sweep is, and how long it will take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bigbatch.study.points import Point
from bigbatch.units import show_seconds


class Pace:
    """Learns from the points that ended: one like another with a different seed takes as long."""

    def __init__(
        self, points: Sequence[Point], *, seeds: Sequence[str], parallel: int, done: Sequence[str]
    ) -> None:
        """Begin.

        Args:
            points: all of them.
            seeds: keys that do not change how long a point takes.
            parallel: points at a time.
            done: names of those that have a result already.
        """
        self._kinds = {
            point.name: tuple(item for item in point.values.items() if item[0] not in seeds)
            for point in points
        }
        self._left = [point.name for point in points if point.name not in done]
        self._parallel = parallel
        self._seconds: dict[tuple[tuple[str, str], ...], list[float]] = {}

    def ended(self, name: str, seconds: float) -> None:
        """A point has got its result."""
        self._left.remove(name)
        self._seconds.setdefault(self._kinds[name], []).append(seconds)

    @property
    def remaining_seconds(self) -> float | None:
        """Of the points that are left, `parallel` at a time; None before the first one ended."""
        if not self._seconds:
            return None
        overall = statistics.fmean(second for found in self._seconds.values() for second in found)
        means = {kind: statistics.fmean(found) for kind, found in self._seconds.items()}
        needed = [means.get(self._kinds[name], overall) for name in self._left]
        return max(sum(needed) / self._parallel, max(needed, default=0.0))

    def told(self, elapsed_seconds: float) -> str:
        """`5 of 12 done, 3 min 20 s so far, about 4 min 10 s to go`."""
        done = len(self._kinds) - len(self._left)
        words = f"{done} of {len(self._kinds)} done, {show_seconds(elapsed_seconds)} so far"
        remaining = self.remaining_seconds
        return (
            words
            if remaining is None or not self._left
            else f"{words}, about {show_seconds(remaining)} to go"
        )
