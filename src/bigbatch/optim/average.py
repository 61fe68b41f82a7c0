"""An exponential average of the weights beside any optimiser: what is evaluated, kept and sampled from.

::

    average <- d average + (1 - d) weights        after each update; d = min(decay, (1 + n) / (10 + n)) after n of them

While it trains, the model holds the weights. `eval()` puts the average into the model and keeps the weights; `train()`
puts them back, bit for bit, so that an evaluation changes nothing.

Reference:
    Polyak and Juditsky 1992, Acceleration of stochastic approximation by averaging. The rising d is TensorFlow's
    ExponentialMovingAverage. Differs from an average of iterates: the beginning is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim import Optimizer

_AVERAGE, _KEPT = "average", "kept"
_COUNT, _HELD = "averaged", "average_held"
"""Entries of a group: updates so far; 1 while the model holds the average."""


def averaged(optimizer: Optimizer, decay: object) -> Optimizer:
    """The optimiser, with an average of its weights.

    Args:
        optimizer: freshly built, elementwise or not.
        decay: d, from 0 to below 1.

    Raises:
        ValueError: another decay, or an optimiser that keeps an average itself.

    Example:
        ::

            optimizer: {name: adamw, args: {average: 0.999}}
    """
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < 1:
        raise ValueError(f"average: found {decay!r}; expected a decay from 0 to below 1, such as 0.999")
    if hasattr(optimizer, "eval"):
        raise ValueError("average: this optimiser keeps an average itself; leave it out")
    kind = type(optimizer)

    class Averaged(kind):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
        """The optimiser's class, with an average."""

        group_state = (*getattr(kind, "group_state", ()), _COUNT, _HELD)

        @torch.no_grad()
        def step(self, closure: Callable[[], float] | None = None) -> float | None:
            self.train()
            found = super().step(closure)
            for group in self.param_groups:
                group[_COUNT] += 1
                d = min(float(decay), (1 + group[_COUNT]) / (10 + group[_COUNT]))
                for parameter in group["params"]:
                    state = self.state[parameter]
                    if not state:
                        continue  # it has had no gradient
                    if _AVERAGE in state:
                        state[_AVERAGE].lerp_(parameter, 1 - d)
                    else:
                        state[_AVERAGE] = parameter.detach().clone()
            return found

        @torch.no_grad()
        def eval(self) -> None:
            """Put the average into the parameters, unless it is there."""
            for group in self.param_groups:
                if group[_HELD]:
                    continue
                group[_HELD] = 1
                for parameter in group["params"]:
                    state = self.state.get(parameter, {})
                    if _AVERAGE in state:
                        state[_KEPT] = parameter.detach().clone()
                        parameter.copy_(state[_AVERAGE])

        @torch.no_grad()
        def train(self) -> None:
            """Put the weights back."""
            for group in self.param_groups:
                if not group[_HELD]:
                    continue
                group[_HELD] = 0
                for parameter in group["params"]:
                    kept = self.state.get(parameter, {}).pop(_KEPT, None)
                    if kept is not None:
                        parameter.copy_(kept)

    optimizer.__class__ = Averaged
    for group in optimizer.param_groups:
        group[_COUNT], group[_HELD] = 0, 0
    return optimizer


def half_life_updates(decay: float) -> float:
    """Updates after which a weight counts half.

    Example:
        >>> round(half_life_updates(0.999))
        693
    """
    return math.inf if decay >= 1 else math.log(0.5) / math.log(decay) if decay > 0 else 0.0
