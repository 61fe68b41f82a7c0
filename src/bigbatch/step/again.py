"""Micro-batches that can be walked again: what the first walk took is kept for as long as the update lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from bigbatch.samples import MicroBatch


class Again:
    """The same micro-batches in every walk, cut in the first; whoever has to look between two of them does so in all.

    A gradient that takes two passes (`step.sam`) walks twice. Cutting anew would give the same, but those that were cut
    ahead are gone once they were taken.
    """

    def __init__(
        self,
        pieces: Iterable[MicroBatch],
        *,
        at_start: Callable[[], None] = lambda: None,
        before_each: Callable[[], None] = lambda: None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is taken yet.

        Args:
            pieces: of one update.
            at_start: called before the first one of every walk.
            before_each: called before each one is given, in every walk; what it raises ends the walk.
            at_end: called behind the last one of every walk.
        """
        self._source = iter(pieces)
        self._taken: list[MicroBatch] = []
        self._at_start = at_start
        self._before_each = before_each
        self._at_end = at_end

    def __iter__(self) -> Iterator[MicroBatch]:
        self._at_start()
        place = 0
        while True:
            if place == len(self._taken):
                found = next(self._source, None)
                if found is None:
                    break
                self._taken.append(found)
            self._before_each()
            yield self._taken[place]
            place += 1
        self._at_end()
