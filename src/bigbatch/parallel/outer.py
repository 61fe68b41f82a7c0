"""DiLoCo's outer optimiser: the mean of the replicas is not taken over, it says in which direction to go.

    delta = global - mean(replicas);   buffer = momentum * buffer + delta;   global -= lr * (delta + momentum * buffer)

Douillard et al. 2023 (DiLoCo): Nesterov's SGD with a learning rate of 0.7 and a momentum of 0.9. Elementwise, so every
rank makes the same step for itself. Differs from the paper in nothing but the period, which may follow how far replicas
drift (`rules.sync`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bigbatch.errors import CheckpointError
from bigbatch.optim.state import load_optimizer_state, optimizer_state

GLOBAL = "global/"
"""Prefix of the global weights in a checkpoint."""


class Outer:
    """The global weights, and torch's SGD over them.

    Example:
        Replicas that always end 1 below the global weight:

        >>> outer = Outer(["weight"], [torch.zeros(())], lr=0.7, momentum=0.9)
        >>> [round(outer.step([outer.weights[0] - 1])[0].item(), 4) for _ in range(3)]
        [-1.33, -3.227, -5.6343]
    """

    def __init__(self, names: Sequence[str], start: Sequence[Tensor], *, lr: float, momentum: float) -> None:
        """Begin where training begins.

        Args:
            names: of the trained parameters, as checkpoints have them.
            start: their values; copied.
            lr: of the outer step.
            momentum: of the outer step; 0 leaves plain steps.
        """
        self.weights = [tensor.detach().clone() for tensor in start]
        self._names = list(names)
        self._optimizer = torch.optim.SGD(self.weights, lr=lr, momentum=momentum, nesterov=momentum > 0)

    def step(self, means: Sequence[Tensor]) -> list[Tensor]:
        """One step from the means of the replicas; the new global weights (the outer's own tensors)."""
        for weight, mean in zip(self.weights, means, strict=True):
            weight.grad = weight - mean
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return self.weights

    def state(self) -> dict[str, Tensor]:
        """`global/<name>` and `momentum_buffer/<name>`."""
        kept = {GLOBAL + name: weight for name, weight in zip(self._names, self.weights, strict=True)}
        return {**kept, **optimizer_state(self._optimizer, self._named())}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned.

        Raises:
            CheckpointError: weights are missing.
        """
        for name, weight in zip(self._names, self.weights, strict=True):
            if GLOBAL + name not in tensors:
                raise CheckpointError(f"the checkpoint has no outer weights of {name}")
            weight.copy_(tensors[GLOBAL + name])
        states = {name: value for name, value in tensors.items() if not name.startswith(GLOBAL)}
        load_optimizer_state(self._optimizer, states, self._named())

    def _named(self) -> dict[Tensor, str]:
        return dict(zip(self.weights, self._names, strict=True))
