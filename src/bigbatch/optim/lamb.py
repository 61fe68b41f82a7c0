"""LAMB: Adam's direction, with the step of every matrix as long as the matrix itself says."""

# The foreach functions are what torch.optim itself is built on; torch exports them under private names.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SumOfSquares = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""(tensors, the parameter that each is laid out as) -> squared L2 norm of each whole tensor."""


def local_sum_of_squares(tensors: Sequence[Tensor], of: Sequence[Tensor] | None = None) -> Tensor:
    """Squared L2 norm of each tensor (len(tensors),), for tensors that are whole on this process."""
    return torch.stack(torch._foreach_norm(list(tensors))).square()


class Lamb(Optimizer):
    """LAMB of You et al. 2019.

    ::

        m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
        u = m_hat / (sqrt(v_hat) + eps) + wd w
        ratio = |w| / |u|            1 when either norm is 0, or when the group says `adapt: False`
        w = w - lr ratio u

    Args:
        params: parameters, or groups; a group with `adapt: False` (biases, norms) has ratio 1.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the root of the second average.
        weight_decay: wd, inside the ratio as in the paper.
        debias: whether the averages are divided by 1 - beta^step.
        sum_of_squares: squared L2 norm of each whole tensor, however it is sharded; one call a step, with all
            adapted weights and directions. The default is for one process.

    Reference:
        arXiv 1904.00962, algorithm 2 with phi(z) = z. There is no clipping in here: the engine clips the
        global gradient once. Differs from pytorch-optimizer's Lamb, which clamps |w| at 10 and decays outside
        the ratio.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = Lamb([weight], lr=0.01, weight_decay=0.1, eps=0.0)
        >>> weight.grad = torch.tensor([1.0, -1.0])
        >>> optimizer.step()
        >>> [round(value, 4) for value in weight.tolist()]
        [2.9546, 4.021]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        debias: bool = True,
        sum_of_squares: SumOfSquares = local_sum_of_squares,
    ) -> None:
        if lr < 0 or eps < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"lamb: lr {lr} and eps {eps} must be >= 0, betas {betas} in [0, 1)")
        self._sum_of_squares = sum_of_squares
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "debias": debias,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients as they stand; `.grad` is only read."""
        assert closure is None, "the engine computes gradients before the step"
        weights: list[Tensor] = []
        directions: list[Tensor] = []
        adapted: list[int] = []
        rates: list[float] = []
        for group in self.param_groups:
            touched = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not touched:
                continue
            if group["adapt"]:
                adapted.extend(range(len(weights), len(weights) + len(touched)))
            weights.extend(touched)
            directions.extend(self._directions(group, touched))
            rates.extend([-float(group["lr"])] * len(touched))
        if not weights:
            return
        self._rescale([weights[i] for i in adapted], [directions[i] for i in adapted])
        torch._foreach_mul_(directions, rates)
        torch._foreach_add_(weights, directions)

    def _directions(self, group: dict[str, Any], parameters: list[Tensor]) -> list[Tensor]:
        """Advance the averages and return u, new tensors."""
        first, second = group["betas"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        states = [self._state_of(parameter) for parameter in parameters]
        means = [state["exp_avg"] for state in states]
        squares = [state["exp_avg_sq"] for state in states]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        roots = torch._foreach_sqrt(squares)
        if group["debias"]:
            # Steps are scalars on the CPU: one read for all, no synchronisation with a device.
            counts = torch.stack(steps).tolist()
            directions = torch._foreach_div(means, [1 - first**count for count in counts])
            torch._foreach_div_(roots, [(1 - second**count) ** 0.5 for count in counts])
        else:
            directions = [mean.clone() for mean in means]
        # With eps 0 a weight that never had a gradient would be 0 / 0.
        floor = torch.finfo(roots[0].dtype).tiny if group["eps"] == 0 else group["eps"]
        torch._foreach_add_(roots, floor)
        torch._foreach_div_(directions, roots)
        if group["weight_decay"] != 0:
            torch._foreach_add_(directions, parameters, alpha=group["weight_decay"])
        return list(directions)

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        """Averages of a parameter, zero at its first gradient."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state

    def _rescale(self, weights: list[Tensor], directions: list[Tensor]) -> None:
        """Multiply each direction by |w| / |u|, in place."""
        if not weights:
            return
        squares = self._sum_of_squares([*weights, *directions], [*weights, *weights])
        weight_squares, direction_squares = squares[: len(weights)], squares[len(weights) :]
        both = (weight_squares > 0) & (direction_squares > 0)
        ratios = torch.where(
            both, (weight_squares / direction_squares).sqrt(), torch.ones_like(weight_squares)
        )
        torch._foreach_mul_(directions, list(ratios.unbind()))
