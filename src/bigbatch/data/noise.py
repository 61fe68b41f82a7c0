"""Normal numbers that belong to samples: a pure function of the state of a sample's generator.

Box and Muller's: of outputs 2 k and 2 k + 1 of the generator, as fractions u and v in [0, 1),

    sqrt(-2 log(1 - u)) cos(2 pi v)    and    sqrt(-2 log(1 - u)) sin(2 pi v)

Shapes: B samples, N numbers of each.
"""

from __future__ import annotations

import numpy as np

from bigbatch.data.order import fractions_at


def uniforms(states_B: np.ndarray, count: int, first: int = 0) -> np.ndarray:
    """(B, N) float64 in [0, 1).

    Args:
        states_B: (B,) uint64, of each sample.
        count: numbers of each.
        first: number of the first output that is used.
    """
    numbers_N = np.arange(first, first + count)
    states = np.repeat(np.asarray(states_B, np.uint64), count)
    return fractions_at(states, np.tile(numbers_N, len(states_B))).reshape(len(states_B), count)


def normals(states_B: np.ndarray, count: int, first: int = 0) -> np.ndarray:
    """(B, N) float64 of the standard normal distribution.

    Args:
        states_B: (B,) uint64, of each sample.
        count: numbers of each.
        first: number of the first output that is used, even.
    """
    pairs = (count + 1) // 2
    drawn = uniforms(states_B, 2 * pairs, first).reshape(len(states_B), pairs, 2)
    radius, angle = np.sqrt(-2.0 * np.log1p(-drawn[..., 0])), 2.0 * np.pi * drawn[..., 1]
    found = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return found.reshape(len(states_B), 2 * pairs)[:, :count]
