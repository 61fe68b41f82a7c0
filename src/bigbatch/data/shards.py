"""The order of a split in many files: shards in an order of their own each epoch, the rows of a few at a time mixed.

    epoch 0:   c f a | h b e | g d      shards, by splitmix64(seed, epoch, shard); here three make a window
               rows of c, f and a mixed, by splitmix64(seed, epoch, window, row); then those of h, b and e; …

A position of the stream is all the state, as in `order.py`: which rows an update sees is a function of the seed, the
position and the sizes of the shards, on any ranks. An update touches one window or two: what lies on a disk is read in
runs, and memory holds two windows' row numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bigbatch.data.order import Epochs, mixed, room_for_another, splitmix64

WINDOW_SHARDS = 8
"""Shards whose rows are mixed: as many as a batch is drawn from."""
_SHARDS, _ROWS = 0x5A4D, 0x5A4E
"""Keep these random numbers apart from others that start from the same seed."""


@dataclass(frozen=True, eq=False)
class _Epoch:
    """Which shards each window has, and at which offset of the epoch it begins."""

    shards: np.ndarray
    """(shards,) int64 numbers, in the epoch's order."""
    starts: np.ndarray
    """(windows + 1,) int64 rows before each window."""


class ShardOrder(Epochs):
    """Epochs over shards that lie one behind the other in a table.

    Args:
        sizes: rows of each shard; some may have none.
        seed: `seed.data`.
        window: shards whose rows are mixed.
    """

    def __init__(self, sizes: Sequence[int], seed: int, window: int = WINDOW_SHARDS) -> None:
        self._sizes = np.asarray(sizes, np.int64)
        self._firsts = np.cumsum([0, *sizes])
        self.samples = int(self._firsts[-1])
        assert self.samples > 0, "a stream needs at least one sample; data.checks refuses zero rows"
        self.seed = seed
        self._window = window
        self._epochs: dict[int, _Epoch] = {}
        self._rows: dict[tuple[int, int], np.ndarray] = {}
        self._shard_sums: np.ndarray | None = None
        """(shards,) of `sum_before`'s values, once they were asked for."""

    def sum_before(self, position: int, values_N: np.ndarray) -> int:
        """Sum of a whole number a row over all earlier positions.

        Args:
            position: samples of the stream consumed.
            values_N: (samples,) of each row; the same ones in every call.
        """
        if self._shard_sums is None:
            self._shard_sums = np.diff(
                np.concatenate([[0], np.cumsum(values_N, dtype=np.int64)])[self._firsts]
            )
        epoch, offset = divmod(position, self.samples)
        window, inside = self._at(epoch, offset)
        whole = self._shard_sums[self._epoch(epoch).shards[: window * self._window]].sum()
        rest = values_N[self._rows_of(epoch, window)[:inside]].sum() if inside else 0
        return epoch * int(self._shard_sums.sum()) + int(whole) + int(rest)

    def shards_from(self, position: int) -> Iterator[int]:
        """Shards in the order in which the stream needs them from a position on, without an end; those of its window
        first.
        """
        epoch, offset = divmod(position, self.samples)
        window, _ = self._at(epoch, offset)
        while True:
            yield from self._epoch(epoch).shards[window * self._window :].tolist()
            epoch, window = epoch + 1, 0

    def _rows_from(self, epoch: int, offset: int) -> np.ndarray:
        window, inside = self._at(epoch, offset)
        return self._rows_of(epoch, window)[inside:]

    def _at(self, epoch: int, offset: int) -> tuple[int, int]:
        """The window of an offset, and how far in it that is."""
        starts = self._epoch(epoch).starts
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        return window, offset - int(starts[window])

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            room_for_another(self._epochs)
            drawn = splitmix64(mixed(self.seed, _SHARDS, epoch), count=len(self._sizes))
            shards = np.argsort(drawn, kind="stable").astype(np.int64)
            firsts = np.arange(0, len(shards), self._window)
            starts = np.concatenate([[0], np.cumsum(np.add.reduceat(self._sizes[shards], firsts))])
            self._epochs[epoch] = _Epoch(shards, starts.astype(np.int64))
        return self._epochs[epoch]

    def _rows_of(self, epoch: int, window: int) -> np.ndarray:
        """Rows of a window in the order in which they are visited."""
        if (epoch, window) not in self._rows:
            room_for_another(self._rows)
            shards = self._epoch(epoch).shards[window * self._window :][: self._window]
            rows = np.concatenate(
                [
                    np.arange(int(self._firsts[shard]), int(self._firsts[shard + 1]))
                    for shard in shards.tolist()
                ]
            )
            drawn = splitmix64(mixed(self.seed, _ROWS, epoch, window), count=len(rows))
            self._rows[epoch, window] = rows[np.argsort(drawn, kind="stable")]
        return self._rows[epoch, window]
