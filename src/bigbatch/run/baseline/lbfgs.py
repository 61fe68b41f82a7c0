"""L-BFGS for smooth convex functions (Liu and Nocedal 1989), with a step that is halved until it pays (Armijo).

torch has one; using it imports torch's compiler, which takes longer than most of the fits here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_KEPT = 3
"""Pairs of differences that are remembered; more take memory and, here, save no step."""
_ENOUGH = 1e-4
"""Of the decrease that the slope promises: Armijo's constant."""
_SHORTEST = 2.0**-20


def steps(
    slope_at: Callable[[Tensor], tuple[float, Tensor]], start: Tensor
) -> Iterator[tuple[float, Tensor]]:
    """The function's value and place after each step, without end; ends where no step pays.

    Args:
        slope_at: place -> value, and gradient of the same shape.
        start: where to begin.
    """
    place = start
    value, slope = slope_at(place)
    pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=_KEPT)
    while True:
        direction = _direction(slope, pairs)
        promised = _dot(direction, slope)
        if not promised < 0:
            return
        # Without a memory of the curvature the first step has length 1 at most.
        length = 1.0 if pairs else min(1.0, 1.0 / float(direction.norm()))
        while True:
            moved = place + length * direction
            new_value, new_slope = slope_at(moved)
            if new_value <= value + _ENOUGH * length * promised:
                break
            length /= 2
            if length < _SHORTEST:
                return
        step, change = moved - place, new_slope - slope
        if _dot(step, change) > 0:
            pairs.append((step, change))
        place, value, slope = moved, new_value, new_slope
        yield value, place


def _direction(slope: Tensor, pairs: deque[tuple[Tensor, Tensor]]) -> Tensor:
    """- H slope, H being the inverse of the curvature as far as the pairs tell it (the two-loop recursion)."""
    found = -slope
    shares = []
    for step, change in reversed(pairs):
        share = _dot(step, found) / _dot(step, change)
        shares.append(share)
        found.add_(change, alpha=-share)
    if pairs:
        step, change = pairs[-1]
        found.mul_(_dot(step, change) / _dot(change, change))
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        found.add_(step, alpha=share - _dot(change, found) / _dot(step, change))
    return found


def _dot(left: Tensor, right: Tensor) -> float:
    return float(torch.dot(left.flatten(), right.flatten()))
