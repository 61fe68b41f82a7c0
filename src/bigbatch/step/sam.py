"""Sharpness-aware minimisation: the gradient of the whole batch, taken where the loss nearby is worst.

::

    g = dL/dw at w                  of the whole global batch, all ranks and all micro-batches
    e = rho g / |g|                 |g| over all trained parameters
    gradient = dL/dw at w + e       the same micro-batches again, with the same dropout masks; then back to w

Adaptive (Kwon et al. 2021), with T = |w| + 0.01, element by element:  e = rho T^2 g / |T g|.

Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving Generalization", algorithm 1. Where this
differs: they normalise each accelerator's own gradient ("m-sharpness"), so that the result depends on how many there
are and on how the batch is cut. Here |g| is that of the whole batch, as the update itself is.

Example, in a recipe: `gradient: {name: sam, rho: 0.05}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from bigbatch.parallel.agree import memory_errors, together
from bigbatch.protocols import Executor, World
from bigbatch.samples import LossSums, MicroBatch
from bigbatch.step.again import Again

ETA = 0.01
"""As in the code of Kwon et al.: weights near zero move, too."""


class SamExecutor:
    """Drives another executor twice an update (`protocols.Executor`)."""

    def __init__(
        self, executor: Executor, parameters: Sequence[Tensor], world: World, *, rho: float, adaptive: bool
    ) -> None:
        """Keep what every update needs.

        Args:
            executor: turns micro-batches into this rank's part of the gradient.
            parameters: all trained ones, this rank's parts of them; moved in place, and put back to the bit.
            world: sums gradients, and their squares over all parts.
            rho: L2 length of the move; adaptive: of e / T.
            adaptive: whether a weight moves in proportion to its size.
        """
        self._executor = executor
        self._parameters = list(parameters)
        self._world = world
        self._rho = rho
        self._adaptive = adaptive

    def accumulate(
        self, update: int, micro_batches: Iterable[MicroBatch], denominators: Mapping[str, float]
    ) -> LossSums:
        """As `OneByOne.accumulate`. The loss is that at w, as a plain update tells it.

        Every rank must call it: what the first walk gives is summed over ranks here.

        Args:
            update: its number: dropout masks follow from it.
            micro_batches: this rank's; walked twice.
            denominators: term -> what its sum over the whole batch is divided by.

        Raises:
            OutOfMemory: a micro-batch, or the copy of the weights, did not fit; the weights are those from before.
        """
        pieces = micro_batches if isinstance(micro_batches, Again) else Again(micro_batches)
        # Before ranks sum anything: one that cannot would keep the others waiting.
        sums = together(
            self._world,
            lambda: self._executor.accumulate(update, pieces, denominators),
        )
        self._world.reduce_gradients(self._parameters)
        with self._moved():
            again = self._executor.accumulate(update, pieces, denominators)
        return replace(sums, wait_seconds=sums.wait_seconds + again.wait_seconds)

    @contextmanager
    def _moved(self) -> Iterator[None]:
        """The weights where the loss is worst, without gradients; afterwards where they were, to the bit."""
        touched = [parameter for parameter in self._parameters if parameter.grad is not None]
        before: list[Tensor] = []
        try:
            with torch.no_grad(), memory_errors():
                factor = self._directed(touched)
                before = [parameter.clone() for parameter in touched] if factor else []
                for parameter in touched if factor else ():
                    assert parameter.grad is not None
                    direction = parameter.grad * self._size(parameter) if self._adaptive else parameter.grad
                    parameter.add_(direction, alpha=factor)
            for parameter in self._parameters:
                parameter.grad = None
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(touched, before, strict=False):
                    parameter.copy_(value)

    def _directed(self, touched: Sequence[Tensor]) -> float:
        """Make `.grad` the direction of the move; what it is multiplied by.

        0 where there is no direction. Of a gradient that is not finite the second walk, at the same weights, gives the
        same once more: the update is skipped, or done again with a smaller loss scale, as any other.
        """
        gradients = [parameter.grad for parameter in touched if parameter.grad is not None]
        if self._adaptive:
            for parameter, gradient in zip(touched, gradients, strict=True):
                gradient.mul_(self._size(parameter))
        # A loss scale (fp16) is in both, and cancels.
        norm = float(self._world.sum_of_squares(gradients, touched).sum().sqrt())
        return self._rho / norm if math.isfinite(norm) and norm > 0 else 0.0

    @staticmethod
    def _size(parameter: Tensor) -> Tensor:
        """T."""
        return parameter.abs().add_(ETA)
