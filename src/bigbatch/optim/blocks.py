"""Elementwise work on lists of tensors, in pieces that fit a CPU's caches.

An optimiser's update reads and writes every value a dozen times. On a CPU a foreach call goes through the whole list,
which is larger than any cache, once for each operation; piece by piece the values come from memory once. On an
accelerator one call for the whole list is best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BLOCK_VALUES = 65_536
"""Of each list: five lists of fp32 are 1.25 MiB. On 22.7M values in one thread, LAMB took 706 ms with 4,096, 324 with
16,384 and 210 with this: a call for fewer values costs more than the cache saves."""

Block = tuple[list[int], tuple[list[Tensor], ...]]
"""(place in the lists of each piece's tensor, the pieces of each list)."""


def in_blocks(*lists: Sequence[Tensor], values: int = BLOCK_VALUES) -> Iterator[Block]:
    """Parallel lists of tensors, a block at a time: views, so that writing to a piece writes to its tensor.

    Args:
        lists: equally long; the tensors at one place have one shape.
        values: of a block; tensors on accelerators, and those that are not contiguous, are not cut.

    Example:
        >>> import torch
        >>> weights, steps = [torch.zeros(5), torch.zeros(2)], [torch.arange(5.0), torch.ones(2)]
        >>> for owners, (some_weights, some_steps) in in_blocks(weights, steps, values=4):
        ...     _ = torch._foreach_add_(some_weights, some_steps)
        ...     print(owners)
        [0]
        [0, 1]
        >>> weights[0].tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    first = lists[0]
    if not first:
        return
    if any(tensor.device.type != "cpu" for tensor in first):
        yield list(range(len(first))), tuple(list(each) for each in lists)
        return
    owners: list[int] = []
    pieces: tuple[list[Tensor], ...] = tuple([] for _ in lists)
    room = values
    for place, tensors in enumerate(zip(*lists, strict=True)):
        whole = not all(tensor.is_contiguous() for tensor in tensors)
        flat = tensors if whole else tuple(tensor.view(-1) for tensor in tensors)
        start, size = 0, tensors[0].numel()
        while start < size:
            count = size if whole else min(room, size - start)
            for own, tensor in zip(pieces, flat, strict=True):
                own.append(tensor if count == size else tensor[start : start + count])
            owners.append(place)
            start, room = start + count, room - count
            if room <= 0:
                yield owners, pieces
                owners, pieces, room = [], tuple([] for _ in lists), values
    if owners:
        yield owners, pieces


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of parameters that all have one."""
    found: list[Tensor] = []
    for parameter in parameters:
        assert parameter.grad is not None
        found.append(parameter.grad)
    return found


def velocity_of(state: dict[str, Tensor], parameter: Tensor) -> Tensor:
    """The momentum of a parameter, zero at its first gradient.

    Args:
        state: `optimizer.state[parameter]`, which is filled.
        parameter: whose it is.
    """
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state["momentum_buffer"]
