"""Adam's two averages and the direction that they give: what LAMB and Muon's other half have in common."""

# The foreach functions are what torch.optim itself is built on; torch exports them under private names.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bigbatch.optim.blocks import gradients_of, in_blocks


def state_of(state: dict[str, Tensor], parameter: Tensor) -> dict[str, Tensor]:
    """The averages of a parameter, zero at its first gradient.

    Args:
        state: `optimizer.state[parameter]`, which is filled.
        parameter: whose averages they are.
    """
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state


Directions = tuple[list[int], list[Tensor], list[Tensor]]
"""(place in the list of each piece's parameter, pieces of the parameters, their directions)."""


def directions(
    parameters: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    *,
    betas: tuple[float, float],
    eps: float,
    debias: bool = True,
    into: Sequence[Tensor] | None = None,
) -> Iterator[Directions]:
    """Advance the averages and give Adam's direction, a block at a time.

    ::

        m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2        m_hat / (sqrt(v_hat) + eps)

    Args:
        parameters: each has a gradient, which is only read.
        states: of `state_of`.
        betas: b1 and b2.
        eps: added to the root.
        debias: whether m and v are divided by 1 - beta^step.
        into: tensors that the directions are written to; None: each block has new ones.

    Yields:
        Pieces of parameters with their directions, which are the caller's to change.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0]))
        >>> weight.grad = torch.tensor([-2.0])
        >>> [(_, _, moves)] = directions([weight], [state_of({}, weight)], betas=(0.9, 0.999), eps=0.0)
        >>> round(moves[0].item(), 4)
        -1.0

    Reference:
        Kingma and Ba 2015, arXiv 1412.6980, algorithm 1. Differs from it with eps 0 alone: a weight that never had a
        gradient stays where it is, instead of 0 / 0.
    """
    first, second = betas
    gradients = gradients_of(parameters)
    means = [state["exp_avg"] for state in states]
    squares = [state["exp_avg_sq"] for state in states]
    steps = [state["step"] for state in states]
    torch._foreach_add_(steps, 1)
    # Steps are scalars on the CPU: one read for all, no synchronisation with a device.
    counts = torch.stack(steps).tolist() if debias else [float("inf")] * len(steps)  # beta^inf is 0
    of_means = [1 - first**count for count in counts]
    of_roots = [(1 - second**count) ** 0.5 for count in counts]
    lists = (parameters, gradients, means, squares, means if into is None else into)
    for owners, (values, slopes, mean, square, moves) in in_blocks(*lists):
        torch._foreach_lerp_(mean, slopes, 1 - first)
        torch._foreach_mul_(square, second)
        torch._foreach_addcmul_(square, slopes, slopes, 1 - second)
        below = torch._foreach_sqrt(square)
        # Both corrections at once, below the line: m / c1 / (sqrt(v) / c2 + eps) = m / (sqrt(v) c1 / c2 + c1 eps).
        if debias:
            torch._foreach_mul_(below, [of_means[owner] / of_roots[owner] for owner in owners])
        # With eps 0 a weight that never had a gradient would be 0 / 0.
        tiny = torch.finfo(below[0].dtype).tiny
        torch._foreach_add_(below, [max(of_means[owner] * eps, tiny) for owner in owners])
        yield owners, values, _divided(mean, list(below), None if into is None else moves)


def _divided(above: list[Tensor], below: list[Tensor], into: list[Tensor] | None) -> list[Tensor]:
    """The quotients; on a CPU without a pass for a copy."""
    if into is None:
        return list(torch._foreach_div(above, below))
    if above[0].device.type == "cpu":
        return [torch.div(one, other, out=out) for one, other, out in zip(above, below, into, strict=True)]
    torch._foreach_copy_(into, above)
    torch._foreach_div_(into, below)
    return into
