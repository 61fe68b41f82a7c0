"""Who waits for an engine: in order of arrival, bounded by rows; one thread takes, any thread puts.

A job is taken together with later ones of the same kind; those of other kinds keep their places. Since the oldest is
always taken first, nobody waits for ever.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Condition
from typing import Generic, TypeVar

from bigbatch.serve.refusals import ending, full

W = TypeVar("W")


@dataclass(kw_only=True, eq=False)
class Job(Generic[W]):
    """One request."""

    work: W
    kind: Hashable
    """Jobs of the same kind run together."""
    rows: int
    tell: Callable[[object], None]
    """Given the answer or an exception, once, from the engine's thread."""
    expires: float
    """`time.monotonic()`; whoever asked has given up by then."""
    arrived: float = field(default_factory=time.monotonic)
    gone: bool = False
    """Nobody waits for it any more."""

    @property
    def over(self) -> bool:
        """Whether an answer would come too late."""
        return self.gone or time.monotonic() >= self.expires


class Queue(Generic[W]):
    """Jobs that wait."""

    def __init__(self, most_rows: int) -> None:
        """An empty one.

        Args:
            most_rows: that wait at a time. A job that alone has more is taken where nothing waits.
        """
        self._most = most_rows
        self._jobs: deque[Job[W]] = deque()
        self._rows = 0
        self._changed = Condition()
        self._closed = False
        self._pace = 50.0
        """Rows a second, of late."""

    @property
    def rows(self) -> int:
        """That wait."""
        return self._rows

    def put(self, job: Job[W]) -> None:
        """Add one.

        Raises:
            Refused: 429, there is no room; 503, the engine ends.
        """
        with self._changed:
            if self._closed:
                raise ending()
            if self._rows and self._rows + job.rows > self._most:
                raise full(self._rows, self._retry_after())
            self._jobs.append(job)
            self._rows += job.rows
            self._changed.notify()

    def first(self) -> Job[W] | None:
        """The oldest job, as soon as there is one; None: the queue is closed and empty."""
        with self._changed:
            while True:
                if self._jobs:
                    return self._take(0)
                if self._closed:
                    return None
                self._changed.wait()

    def more(self, kind: Hashable, until: float, room: int) -> Job[W] | None:
        """The next job of a kind with at most so many rows, arriving by then; None: there is none.

        A job that is too large, or waits no longer for more, ends the looking.

        Args:
            kind: of the job that was first.
            until: `time.monotonic()`.
            room: rows.
        """
        seen = 0
        with self._changed:
            while True:
                for place in range(seen, len(self._jobs)):
                    job = self._jobs[place]
                    if job.kind == kind:
                        return self._take(place) if job.rows <= room else None
                seen = len(self._jobs)
                left = until - time.monotonic()
                if left <= 0 or self._closed:
                    return None
                self._changed.wait(left)
                seen = min(seen, len(self._jobs))

    def back(self, job: Job[W]) -> None:
        """Put a job back to the front: it did not fit."""
        with self._changed:
            self._jobs.appendleft(job)
            self._rows += job.rows

    def drop(self, job: Job[W]) -> None:
        """Nobody waits for it any more; its place is free at once."""
        job.gone = True
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._rows -= job.rows

    def close(self) -> None:
        """Take no more; what waits is still taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Close, and tell all who wait."""
        with self._changed:
            self._closed = True
            left, self._rows = list(self._jobs), 0
            self._jobs.clear()
            self._changed.notify_all()
        for job in left:
            job.tell(ending())

    def ran(self, rows: int, seconds: float) -> None:
        """Note how fast the engine is.

        Args:
            rows: that were answered.
            seconds: that took.
        """
        if rows and seconds > 0:
            self._pace += 0.2 * (rows / seconds - self._pace)

    def _take(self, place: int) -> Job[W]:
        job = self._jobs[place]
        del self._jobs[place]
        self._rows -= job.rows
        return job

    def _retry_after(self) -> int:
        return min(60, max(1, math.ceil(self._rows / max(self._pace, 0.1))))
