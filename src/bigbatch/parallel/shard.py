"""Parameters in parts: each rank keeps its own and gathers a block's when it runs (torch's FSDP2)."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from bigbatch.model.anatomy import Anatomy


def share_parameters(module: nn.Module, anatomy: Anatomy, mesh: DeviceMesh) -> None:
    """Divide every parameter over the ranks of the mesh's last axis; copies of the parts lie along the first of two.

    Gradients are summed, never averaged: losses are divided by the whole batch's denominators already.

    Args:
        module: the whole model.
        anatomy: its parts; each block is gathered alone, what is left together with the root.
        mesh: one axis, or (replicate, shard).
    """
    for block in dict.fromkeys(application.module for application in anatomy.blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            _sum_gradients(part)


def _sum_gradients(part: Any) -> None:
    part.set_gradient_divide_factor(1.0)
    # gloo has no pre-multiplied sum.
    part.set_force_sum_reduction_for_comms(True)
