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


def forget_groups(module: nn.Module) -> None:
    """Hold no process group: one that nobody holds closes its connections."""
    for info in _mesh_infos(module):
        for name in ("shard_process_group", "replicate_process_group", "reduce_scatter_process_group"):
            if hasattr(info, name):
                setattr(info, name, None)


def forget_pass(module: nn.Module) -> None:
    """After a pass that was left in the middle: parameters in parts, no gradients, the mesh's new groups."""
    for info in _mesh_infos(module):
        info.__post_init__()
    # Twice: parameters that are gathered now have gradients of their own.
    for parameter in module.parameters():
        parameter.grad = None
    if isinstance(module, FSDPModule):
        module.reset_iter_state()
    for parameter in module.parameters():
        parameter.grad = None


def _mesh_infos(module: nn.Module) -> list[Any]:
    """What FSDP knows of its ranks."""
    states: list[Any] = [part._get_fsdp_state() for part in module.modules() if isinstance(part, FSDPModule)]
    groups = [group for state in states for group in state._fsdp_param_groups]
    found = [info for group in groups for info in (group.mesh_info, group.post_forward_mesh_info)]
    return list({id(info): info for info in found if info is not None}.values())


def _sum_gradients(part: Any) -> None:
    part.set_gradient_divide_factor(1.0)
    # gloo has no pre-multiplied sum.
    part.set_force_sum_reduction_for_comms(True)
