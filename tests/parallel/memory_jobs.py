"""What summing gradients takes beside them: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bigbatch.parallel.bitwise import AlignedGroup
from bigbatch.parallel.group import GroupWorld
from bigbatch.protocols import World

MIB = 2**20


def _mib(name: str) -> float:
    """`VmRSS` or `VmHWM` of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def reduced(world: World, *, sizes_mib: list[int], early: bool, bitwise: bool = False) -> dict[str, Any]:
    """Sum gradients of these sizes; MiB at the peak beyond what was there before.

    Args:
        world: the ranks.
        sizes_mib: of each parameter's gradient, fp32.
        early: whether they travel while a backward pass runs.
        bitwise: sums in the order of a tree.
    """
    group: Any = AlignedGroup() if bitwise else GroupWorld()
    small = [torch.nn.Parameter(torch.zeros(4))]
    small[0].grad = torch.ones(4)
    group.reduce_gradients(small)  # of another model, as a run before this one in the same process
    parameters = [torch.nn.Parameter(torch.full((size * MIB // 4,), 0.5)) for size in sizes_mib]
    total: torch.Tensor | None = None
    if early:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        group.reduce_gradients(parameters)  # it learns of the parameters, as in the update before
        total = sum((parameter[0] * 1.0 for parameter in parameters), torch.zeros(()))
        for parameter in parameters:
            parameter.grad = None
    else:
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
    Path("/proc/self/clear_refs").write_text("5")
    before = _mib("VmRSS")
    if total is not None:
        group.last_backward()
        total.backward()
    group.reduce_gradients(parameters)
    gradients = [parameter.grad for parameter in parameters]
    return {
        "more": _mib("VmHWM") - before,
        "sums": [float(each.flatten()[0]) for each in gradients if each is not None],
        "rest": [
            float(each.flatten()[1:].sum()) / max(1, each.numel() - 1)
            for each in gradients
            if each is not None
        ],
    }
