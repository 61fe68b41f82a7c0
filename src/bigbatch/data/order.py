"""The order in which samples are consumed, as arithmetic: a position in the stream is all the state there is.

The order of an epoch is the stable argsort of splitmix64(seed, epoch, index). It is our own code with golden
values in the tests, so that it never changes with a version of numpy, the rank, the worker or the world size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def splitmix64(state: int, first: int = 0, count: int = 1) -> np.ndarray:
    """Outputs `first` … `first + count - 1` of the splitmix64 generator started at `state`.

    Output i is mix(state + (i + 1) gamma), so any of them is reached without the ones before it.

    Args:
        state: any integer, taken modulo 2**64.
        first: number of the first output, from 0.
        count: how many.

    Returns:
        (count,) uint64.

    Reference: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    # Python integers for the scalar part: numpy warns when a uint64 scalar wraps, and wrapping is the point.
    start = np.uint64((state + (first + 1) * _GAMMA) & _MASK)
    return _mix(np.arange(count, dtype=np.uint64) * np.uint64(_GAMMA) + start)


def splitmix64_at(states_N: np.ndarray, numbers_N: np.ndarray) -> np.ndarray:
    """One output of each of many generators: element i is `splitmix64(states[i], first=numbers[i])[0]`.

    Args:
        states_N: (N,) uint64.
        numbers_N: (N,) whole numbers from 0, or one for all.

    Returns:
        (N,) uint64.
    """
    steps_N = (np.asarray(numbers_N).astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA)
    return _mix(np.asarray(states_N, np.uint64) + steps_N)


def mixed_with(states_N: np.ndarray, numbers_N: np.ndarray) -> np.ndarray:
    """`mixed` carried on elementwise: each state <- splitmix64(state + number) (N,) uint64."""
    sums_N = np.asarray(states_N, np.uint64) + np.asarray(numbers_N).astype(np.uint64)
    return splitmix64_at(sums_N, np.zeros(1, np.uint64))


def fractions_at(states_N: np.ndarray, numbers_N: np.ndarray) -> np.ndarray:
    """(N,) float64 in [0, 1): 53 bits of one output of each of many generators.

    Args:
        states_N: (N,) uint64.
        numbers_N: (N,) whole numbers from 0, or one for all.
    """
    return (splitmix64_at(states_N, numbers_N) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_states(seed: int, stream: int, epochs_B: np.ndarray, samples_B: np.ndarray) -> np.ndarray:
    """(B,) uint64 states of the samples' generators.

    Args:
        seed: of the data.
        stream: `TRAINING` or `EVALUATION`.
        epochs_B: (B,) int64, from 0.
        samples_B: (B,) int64 numbers of the samples in their table.
    """
    start = np.full(len(samples_B), mixed(seed, stream), np.uint64)
    return mixed_with(mixed_with(start, epochs_B), samples_B)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def mixed(*numbers: int) -> int:
    """One 64-bit state from several integers: state <- splitmix64(state + number), from 0."""
    state = 0
    for number in numbers:
        state = int(splitmix64(state + number)[0])
    return state


def epoch_order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """Row numbers in the order in which an epoch visits them.

    Args:
        seed: `seed.data`.
        epoch: from 0.
        samples: rows in the split.

    Returns:
        (samples,) int64, a permutation of 0 … samples - 1.
    """
    return np.argsort(splitmix64(mixed(seed, epoch), count=samples), kind="stable").astype(np.int64)


class Epochs(ABC):
    """An endless sequence of epochs of equally many samples; `ids` reads any stretch of it."""

    samples: int
    """Of an epoch."""

    def ids(self, first_position: int, count: int) -> np.ndarray:
        """Row numbers at positions `first_position` … `first_position + count - 1` (count,) int64."""
        parts = []
        position, end = first_position, first_position + count
        while position < end:
            parts.append(self._rows_from(*divmod(position, self.samples))[: end - position])
            position += len(parts[-1])
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def epochs(self, first_position: int, count: int) -> np.ndarray:
        """Epoch of each of these positions (count,) int64."""
        return (first_position + np.arange(count, dtype=np.int64)) // self.samples

    @abstractmethod
    def _rows_from(self, epoch: int, offset: int) -> np.ndarray:
        """Rows from an offset of an epoch on, at least one, as far as they are at hand."""


class SampleOrder(Epochs):
    """Epochs in which all samples are shuffled.

    Holds the last two epoch orders, so that batches that cross an epoch's end do not sort twice.
    """

    def __init__(self, samples: int, seed: int) -> None:
        assert samples > 0, "a stream needs at least one sample; data.checks refuses zero rows"
        self.samples = samples
        self.seed = seed
        self._orders: dict[int, np.ndarray] = {}
        self._sums: dict[int, np.ndarray] = {}
        """Latest epoch -> running sum of `sum_before`'s values along its order (samples,)."""

    def sum_before(self, position: int, values_N: np.ndarray) -> int:
        """Sum of a whole number a row over all earlier positions; no epoch but the last is replayed.

        Args:
            position: samples of the stream consumed.
            values_N: (samples,) of each row; the same ones in every call.
        """
        epoch, offset = divmod(position, self.samples)
        if epoch not in self._sums:
            self._sums = {epoch: np.cumsum(values_N[self._order(epoch)])}
        rest = int(self._sums[epoch][offset - 1]) if offset else 0
        return epoch * int(values_N.sum()) + rest

    def _rows_from(self, epoch: int, offset: int) -> np.ndarray:
        return self._order(epoch)[offset:]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            room_for_another(self._orders)
            self._orders[epoch] = epoch_order(self.seed, epoch, self.samples)
        return self._orders[epoch]


def room_for_another(kept: dict) -> None:
    """Two are kept: what comes next is near what came last."""
    while len(kept) >= 2:
        kept.pop(next(iter(kept)))
