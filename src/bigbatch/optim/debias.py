"""Averages that go on under other betas: what of them is still missing is carried over, not computed anew."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

_FORGOTTEN = 1e-30
"""Stands for a beta of 0, which has no logarithm."""


def set_betas(
    group: dict[str, Any], states: dict[Tensor, dict[str, Any]], betas: tuple[float, float]
) -> None:
    """Give a group other betas; averages that its optimiser debiases stay debiased.

    An average that began at 0 holds 1 - P of its gradients, P the product of the betas of all its updates. Optimisers
    write beta^step for P, which is right while beta is constant. So that they stay right::

        second average:  step <- the s with new2^s = P2 = old2^step
        first average:   m <- m (1 - new1^s) / (1 - old1^step)

    Under the half-life rule both betas have the same s, and m stays as it is. Under another rule P1 is small where the
    batch grows later than in the first few updates; m is then exactly debiased, with a weight of what came before that
    differs from the product's by P1. A step that is a Python number stays, and the second average is rescaled too.

    Args:
        group: of an optimiser; one without `betas` is left alone, as is what keeps no count (Lion).
        states: the optimiser's.
        betas: from the next update on.
    """
    old = group.get("betas")
    if old is None or tuple(old) == tuple(betas):
        return
    group["betas"] = betas
    if not group.get("debias", True):
        return
    for parameter in group["params"]:
        state = states.get(parameter)
        if state:
            _carry_over(state, state.get("step", group.get("k")), (float(old[0]), float(old[1])), betas)


def _carry_over(
    state: dict[str, Any], step: Tensor | float | None, old: tuple[float, float], new: tuple[float, float]
) -> None:
    count = 0.0 if step is None else float(step)
    if count <= 0:
        return
    first, second, after = state.get("exp_avg"), state.get("exp_avg_sq"), count
    if second is not None and isinstance(step, Tensor):
        if new[1] > 0:  # else nothing is missing, whatever the step
            after = count * math.log(max(old[1], _FORGOTTEN)) / math.log(new[1])
        step.fill_(after)
    elif second is not None:
        _multiply(second, (1 - new[1] ** count) / (1 - old[1] ** count))
    if first is not None:
        _multiply(first, (1 - new[0] ** after) / (1 - old[0] ** count))


def _multiply(average: Tensor, factor: float) -> None:
    """Of an average in codes of 8 bits, the scales of its blocks."""
    getattr(average, "scale", average).mul_(factor)
