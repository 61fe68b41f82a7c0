"""LARS: momentum SGD with the step of every matrix as long as the matrix itself says."""

# The foreach functions are what torch.optim itself is built on; torch exports them under private names.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bigbatch.optim.blocks import gradients_of, in_blocks, velocity_of
from bigbatch.optim.from_zero import FromZero
from bigbatch.optim.lamb import SumOfSquares, local_sum_of_squares, scaled_rates

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


class Lars(Optimizer):
    """LARS of You et al. 2017.

    ::

        local = trust |w| / (|g| + wd |w| + eps)      1 when |w| is 0, or when the group says `adapt: False`
        buf = momentum buf + local (g + wd w)
        w = w - lr buf                                nesterov: w - lr (local (g + wd w) + momentum buf)

    A matrix that began at zero (every B of LoRA) is not adapted (local 1) before its values are about as large as
    random ones (`from_zero.SHORT`). Where the gradient is exactly 0, local is `trust`, as for a gradient as long as the
    matrix: what is left is the decay, which must not become a thousand times as strong.

    The learning rate is outside the momentum: a change of lr acts on what the buffer already holds. (In the paper it
    is inside; with a constant lr both are the same.)

    Args:
        params: parameters, or groups; a group with `adapt: False` (biases, norms) has local 1.
        lr: learning rate.
        momentum: decay of the buffer; 0 keeps none.
        weight_decay: wd, inside the ratio as in the paper.
        nesterov: whether the step looks ahead.
        trust: how far a tensor moves, as a fraction of its norm, at lr 1 and without momentum.
        eps: added to the denominator.
        sum_of_squares: squared L2 norm of each whole tensor, however it is sharded; one call a step, with all
            adapted weights and gradients. The default is for one process.
        values_of: how many values the whole of a parameter has.

    Reference:
        arXiv 1708.03888, algorithm 1. Differs from it where lr enters and where a norm is 0, as above. Nothing is
        clipped in here: the engine clips the global gradient once.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = Lars([weight], lr=1.0, weight_decay=0.1)
        >>> weight.grad = torch.tensor([0.6, 0.8])
        >>> optimizer.step()
        >>> [round(value, 4) for value in weight.tolist()]
        [2.997, 3.996]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.01,
        *,
        nesterov: bool = False,
        trust: float = 1e-3,
        eps: float = 1e-8,
        sum_of_squares: SumOfSquares = local_sum_of_squares,
        values_of: Callable[[Tensor], int] = Tensor.numel,
    ) -> None:
        if lr < 0 or eps < 0 or trust <= 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"lars: lr {lr} and eps {eps} must be >= 0, trust {trust} > 0, momentum {momentum} in [0, 1)"
            )
        self._sum_of_squares = sum_of_squares
        self._from_zero = FromZero(values_of)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust": trust,
            "eps": eps,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients as they stand; `.grad` is only read."""
        assert closure is None, "the engine computes gradients before the step"
        adapted = [
            (parameter, group)
            for group in self.param_groups
            if group["adapt"]
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        ratios = iter(self._ratios(adapted))
        for group in self.param_groups:
            touched = [parameter for parameter in group["params"] if parameter.grad is not None]
            local = [next(ratios) if group["adapt"] else 1.0 for _ in touched]
            if touched:
                self._move(group, touched, local)

    def _ratios(self, adapted: list[tuple[Tensor, dict[str, Any]]]) -> list[Any]:
        """The local rate of each whole tensor, in the order given."""
        if not adapted:
            return []
        weights = [parameter for parameter, _ in adapted]
        gradients = gradients_of(weights)
        squares = self._sum_of_squares([*weights, *gradients], [*weights, *weights])
        norms = squares.sqrt()
        of_weights, of_gradients = norms[: len(weights)], norms[len(weights) :]

        def column(key: str) -> Tensor:
            return torch.tensor([group[key] for _, group in adapted], dtype=norms.dtype).to(norms.device)

        below = of_gradients + column("weight_decay") * of_weights + column("eps")
        told = of_weights > 0
        waiting = self._from_zero.waiting(weights, self.state, squares[: len(weights)])
        if waiting is not None:
            told &= ~waiting
        known = torch.where(of_gradients > 0, column("trust") * of_weights / below, column("trust"))
        ratios = torch.where(told, known, torch.ones_like(below))
        return scaled_rates([1.0] * len(weights), range(len(weights)), ratios)

    def _move(self, group: dict[str, Any], parameters: list[Tensor], local: list[Any]) -> None:
        gradients = gradients_of(parameters)
        momentum = group["momentum"]
        speeds = [velocity_of(self.state[one], one) for one in parameters] if momentum else gradients
        for owners, (values, slopes, speed) in in_blocks(parameters, gradients, speeds):
            rates = [local[owner] for owner in owners]
            decayed = torch._foreach_add(slopes, values, alpha=group["weight_decay"])
            torch._foreach_mul_(decayed, rates)
            if momentum:
                torch._foreach_mul_(speed, momentum)
                torch._foreach_add_(speed, decayed)
            if momentum and group["nesterov"]:
                torch._foreach_add_(decayed, speed, alpha=momentum)
            moves = speed if momentum and not group["nesterov"] else decayed
            torch._foreach_add_(values, moves, alpha=-float(group["lr"]))
