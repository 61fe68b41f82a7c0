"""LAMB: Adam's direction, with the step of every matrix as long as the matrix itself says."""

# The foreach functions are what torch.optim itself is built on; torch exports them under private names.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bigbatch.optim.adam import directions, state_of
from bigbatch.optim.blocks import in_blocks
from bigbatch.optim.from_zero import FromZero

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


_ROUNDING = 1e-4
"""What two sums of the same squares differ by at most, relative."""
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
        values_of: how many values the whole of a parameter has.

    Two more cases have ratio 1, which the paper leaves to bounds of phi. A matrix that began at zero (every B of LoRA)
    is not adapted before its values are about as large as random ones (`from_zero.SHORT`): its length after one step is
    lr, and it would go on at lr of the rate. And where gradients have been exactly 0, u is the decay alone, and
    |w| / |u| = 1 / wd would make it a hundred times as strong.

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
        params: ParamsT,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        debias: bool = True,
        sum_of_squares: SumOfSquares = local_sum_of_squares,
        values_of: Callable[[Tensor], int] = Tensor.numel,
    ) -> None:
        if lr < 0 or eps < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"lamb: lr {lr} and eps {eps} must be >= 0, betas {betas} in [0, 1)")
        self._sum_of_squares = sum_of_squares
        self._from_zero = FromZero(values_of)
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
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients as they stand; `.grad` is only read."""
        assert closure is None, "the engine computes gradients before the step"
        weights: list[Tensor] = []
        found: list[Tensor] = []
        adapted: list[int] = []
        rates: list[float] = []
        decays: list[float] = []
        for group in self.param_groups:
            touched = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not touched:
                continue
            if group["adapt"]:
                adapted.extend(range(len(weights), len(weights) + len(touched)))
                decays.extend([float(group["weight_decay"])] * len(touched))
            weights.extend(touched)
            found.extend(self._directions(group, touched))
            rates.extend([-float(group["lr"])] * len(touched))
        if not weights:
            return
        by_ratio = self._ratios([weights[i] for i in adapted], [found[i] for i in adapted], decays)
        step_lengths = scaled_rates(rates, adapted, by_ratio)
        for owners, (values, moves) in in_blocks(weights, found):
            _add(values, moves, [step_lengths[owner] for owner in owners])

    def _directions(self, group: dict[str, Any], parameters: list[Tensor]) -> list[Tensor]:
        """Advance the averages and return u, new tensors."""
        states = [state_of(self.state[parameter], parameter) for parameter in parameters]
        found = [torch.empty_like(parameter) for parameter in parameters]
        steps = directions(
            parameters, states, betas=group["betas"], eps=group["eps"], debias=group["debias"], into=found
        )
        for _, values, moves in steps:
            if group["weight_decay"] != 0:
                torch._foreach_add_(moves, values, alpha=group["weight_decay"])
        return found

    def _ratios(self, weights: list[Tensor], moves: list[Tensor], decays: list[float]) -> Tensor:
        """|w| / |u| of each whole tensor, or 1."""
        if not weights:
            return torch.ones(0)
        squares = self._sum_of_squares([*weights, *moves], [*weights, *weights])
        weight_squares, direction_squares = squares[: len(weights)], squares[len(weights) :]
        told = (weight_squares > 0) & (direction_squares > 0)
        waiting = self._from_zero.waiting(weights, self.state, weight_squares)
        if waiting is not None:
            told &= ~waiting
        decay = torch.tensor(decays, dtype=weight_squares.dtype).to(weight_squares.device, non_blocking=True)
        decay_squares = decay.square() * weight_squares
        # Adam's own direction is as long as sqrt(values), so u is never as long as wd w by chance.
        told &= (direction_squares - decay_squares).abs() > _ROUNDING * decay_squares
        return torch.where(told, (weight_squares / direction_squares).sqrt(), torch.ones_like(weight_squares))


def _add(values: list[Tensor], moves: list[Tensor], rates: list[Any]) -> None:
    """Values += rates moves; numbers save a pass, tensors (on an accelerator) save waiting for them."""
    if isinstance(rates[0], float):
        for value, move, rate in zip(values, moves, rates, strict=True):
            value.add_(move, alpha=rate)
        return
    torch._foreach_mul_(moves, rates)
    torch._foreach_add_(values, moves)


def scaled_rates(rates: Sequence[float], adapted: Sequence[int], ratios: Tensor) -> list[Any]:
    """The rates, those of the adapted places times their ratios; on an accelerator nobody waits for the ratios.

    Args:
        rates: one a tensor.
        adapted: places of those that have a ratio.
        ratios: (len(adapted),).
    """
    if ratios.device.type == "cpu":
        found: list[Any] = list(rates)
        for place, ratio in zip(adapted, ratios.tolist(), strict=True):
            found[place] = rates[place] * ratio
        return found
    tensors = torch.tensor(list(rates), dtype=ratios.dtype).to(ratios.device, non_blocking=True)
    places = torch.tensor(list(adapted)).to(ratios.device, non_blocking=True)
    return list(tensors.index_copy(0, places, tensors[places] * ratios).unbind())
