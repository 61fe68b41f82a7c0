"""Muon: momentum whose matrices are made orthogonal; AdamW for everything that is not a matrix inside a block."""

# The foreach functions are what torch.optim itself is built on; torch exports them under private names.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from bigbatch.optim.adam import directions, state_of
from bigbatch.optim.blocks import gradients_of, in_blocks, velocity_of

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


# ---------------------------------------------------------------- the nearest orthogonal matrix, by products alone

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""a, b, c of Jordan et al.: steepest at 0, so that five steps are enough; singular values end between .7 and 1.2."""
STEPS = 5


def orthogonalised(matrices_BMN: Tensor, steps: int = STEPS, dtype: torch.dtype | None = None) -> Tensor:
    """U V^T, about, of each matrix U S V^T.

    ::

        X = G / |G|        steps times: A = X X^T;  X = a X + (b A + c A A) X

    A singular value s becomes a s + b s^3 + c s^5 in each step, and directions stay. The whole matrix is needed: parts
    of it have other singular values.

    Args:
        matrices_BMN: (matrices, rows, columns).
        steps: of the iteration.
        dtype: of the products; None: of the matrices. bf16 is as good for training, and quicker where hardware has it.

    Returns:
        As the input in shape and dtype; zero where a matrix is zero.
    """
    a, b, c = COEFFICIENTS
    wide = matrices_BMN if matrices_BMN.shape[1] <= matrices_BMN.shape[2] else matrices_BMN.mT
    lengths = wide.flatten(1).norm(dim=1).clamp_min(torch.finfo(wide.dtype).tiny)
    turned = (wide / lengths[:, None, None]).to(dtype or wide.dtype)
    for _ in range(steps):
        square = turned @ turned.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        turned = torch.baddbmm(turned, polynomial, turned, beta=a)
    turned = turned.to(matrices_BMN.dtype)
    return turned if wide is matrices_BMN else turned.mT


# ---------------------------------------------------------------- the optimiser

SCALES: dict[str, Callable[[int, int], float]] = {
    "moonlight": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
    "keller": lambda rows, columns: max(1.0, rows / columns) ** 0.5,
}
"""What an orthogonal matrix is multiplied by. `moonlight`: its values are then as large as AdamW's directions (root
mean square 0.2), so lr and weight decay of AdamW can be kept; `keller`: needs a rate of its own, about 0.02."""
FORMATS = {"fp32": None, "bf16": torch.bfloat16}
_VALUES_AT_ONCE = 1 << 24
"""Values of equally shaped matrices that are turned in one product."""


class Whole(Protocol):
    """Puts parts of tensors together: what this file needs of a world."""

    def gathered_like(self, part: Tensor, parameter: Tensor) -> Tensor: ...

    def part_of(self, whole: Tensor, parameter: Tensor) -> Tensor: ...


class Undivided:
    """`Whole` of a process that holds every parameter whole."""

    def gathered_like(self, part: Tensor, parameter: Tensor) -> Tensor:
        return part

    def part_of(self, whole: Tensor, parameter: Tensor) -> Tensor:
        return whole


class Muon(Optimizer):
    """Muon of Jordan et al. 2024, with AdamW for the rest in one object.

    ::

        buf = momentum buf + g        u = g + momentum buf (nesterov), or buf
        w = w - lr wd w - lr scale(rows, columns) U V^T          U S V^T = u, by Newton-Schulz

    A group takes part when it says `orthogonal: True` (see `decay_groups`: matrices inside blocks); its tensors have
    two dimensions. The others move by AdamW. A matrix that holds query, key and value together is turned as one.

    Args:
        params: parameters, or groups.
        lr: learning rate of both.
        momentum: decay of the buffer.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: decoupled decay.
        nesterov: whether the direction looks ahead.
        scale: `moonlight` or `keller`, see `SCALES`.
        newton_schulz: `fp32` or `bf16`: what the products are computed in.
        steps: of Newton-Schulz.
        whole: puts divided matrices together; every rank then turns all of them. None: they are whole here.

    Reference:
        Keller Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et al. 2025, arXiv
        2502.16982 (Moonlight). Differs from the first: the scale, decoupled decay and, unless asked, products in fp32.
        torch.optim.Muon always computes in bf16 and has no other half.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2, 2))
        >>> weight.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> Muon([{"params": [weight], "orthogonal": True}], lr=1.0).step()
        >>> [[round(value, 2) for value in row] for row in weight.tolist()]
        [[-0.2, 0.0], [0.0, -0.32]]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        nesterov: bool = True,
        scale: str = "moonlight",
        newton_schulz: str = "fp32",
        steps: int = STEPS,
        whole: Whole | None = None,
    ) -> None:
        if lr < 0 or eps < 0 or not all(0 <= each < 1 for each in (*betas, momentum)):
            raise ValueError(
                f"muon: lr {lr}, eps {eps} must be >= 0, betas {betas}, momentum {momentum} in [0, 1)"
            )
        if scale not in SCALES or newton_schulz not in FORMATS or not 1 <= steps <= 20:
            raise ValueError(
                f"muon: found scale {scale!r}, newton_schulz {newton_schulz!r}, steps {steps!r}; expected scale "
                f"{' | '.join(SCALES)}, newton_schulz {' | '.join(FORMATS)}, steps from 1 to 20"
            )
        self._whole = whole or Undivided()
        self._scale, self._format, self._steps = SCALES[scale], FORMATS[newton_schulz], steps
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "orthogonal": False,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients as they stand; `.grad` is only read."""
        assert closure is None, "the engine computes gradients before the step"
        for group in self.param_groups:
            touched = [parameter for parameter in group["params"] if parameter.grad is not None]
            if touched and group["orthogonal"]:
                self._turn(group, touched)
            elif touched:
                self._adapt(group, touched)

    def _adapt(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """AdamW."""
        lr = float(group["lr"])
        states = [state_of(self.state[parameter], parameter) for parameter in parameters]
        for _, values, moves in directions(parameters, states, betas=group["betas"], eps=group["eps"]):
            torch._foreach_mul_(values, 1 - lr * group["weight_decay"])
            torch._foreach_add_(values, moves, alpha=-lr)

    def _turn(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Muon: the same matrices in the same order on every rank, since divided ones are put together."""
        lr = float(group["lr"])
        for some in _equally_shaped(parameters, self._momentum(group, parameters), self._whole):
            turned_BMN = orthogonalised(torch.stack([whole for _, whole in some]), self._steps, self._format)
            factor = -lr * self._scale(turned_BMN.shape[1], turned_BMN.shape[2])
            for (parameter, _), turned in zip(some, turned_BMN.unbind(), strict=True):
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.add_(self._whole.part_of(turned, parameter), alpha=factor)

    def _momentum(self, group: dict[str, Any], parameters: list[Tensor]) -> list[Tensor]:
        """Advance the buffers and return u, this rank's part."""
        gradients = gradients_of(parameters)
        speeds = [velocity_of(self.state[parameter], parameter) for parameter in parameters]
        ahead = [torch.empty_like(parameter) for parameter in parameters] if group["nesterov"] else speeds
        for _, (slopes, speed, found) in in_blocks(gradients, speeds, ahead):
            torch._foreach_mul_(speed, group["momentum"])
            torch._foreach_add_(speed, slopes)
            if group["nesterov"]:
                torch._foreach_copy_(found, slopes)
                torch._foreach_add_(found, speed, alpha=group["momentum"])
        return ahead


def _equally_shaped(
    parameters: list[Tensor], parts: list[Tensor], world: Whole
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Parameters with their whole matrices, of one shape and not too many at a time.

    Parts are put together just before they are needed: no rank holds all whole matrices at once.
    """
    by_shape: dict[tuple[torch.Size, torch.dtype, torch.device], list[tuple[Tensor, Tensor]]] = {}
    for parameter, part in zip(parameters, parts, strict=True):
        whole = world.gathered_like(part, parameter)
        key = (whole.shape, whole.dtype, whole.device)
        waiting = by_shape.setdefault(key, [])
        waiting.append((parameter, whole))
        if len(waiting) * whole.numel() >= _VALUES_AT_ONCE:
            yield by_shape.pop(key)
    yield from by_shape.values()
