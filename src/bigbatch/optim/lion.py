"""Lion: steps of one length, in the direction of a sign."""

# The foreach functions are what torch.optim itself is built on; torch exports them under private names.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bigbatch.optim.blocks import gradients_of, in_blocks, velocity_of

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


class Lion(Optimizer):
    """Lion of Chen et al. 2023.

    ::

        u = sign(b1 m + (1 - b1) g)        m = b2 m + (1 - b2) g
        w = w - lr (u + wd w)

    Every weight moves by lr, so lr is 3 to 10 times smaller than AdamW's, and wd as much larger.

    Args:
        params: parameters, or groups.
        lr: learning rate.
        betas: b1 of the direction, b2 of the average.
        weight_decay: decoupled decay.

    Reference:
        arXiv 2302.06675, algorithm 2; differs from it in nothing.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> weight.grad = torch.tensor([0.5, -2.0])
        >>> Lion([weight], lr=0.25, weight_decay=0.0).step()
        >>> weight.tolist()
        [2.75, 4.25]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        if lr < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"lion: lr {lr} must be >= 0, betas {betas} in [0, 1)")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients as they stand; `.grad` is only read."""
        assert closure is None, "the engine computes gradients before the step"
        for group in self.param_groups:
            touched = [parameter for parameter in group["params"] if parameter.grad is not None]
            if touched:
                self._move(group, touched)

    def _move(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        (first, second), lr = group["betas"], float(group["lr"])
        gradients = gradients_of(parameters)
        means = [velocity_of(self.state[parameter], parameter) for parameter in parameters]
        for _, (values, slopes, mean) in in_blocks(parameters, gradients, means):
            moves = torch._foreach_lerp(mean, slopes, 1 - first)
            torch._foreach_sign_(moves)
            torch._foreach_mul_(values, 1 - lr * group["weight_decay"])
            torch._foreach_add_(values, moves, alpha=-lr)
            torch._foreach_lerp_(mean, slopes, 1 - second)
