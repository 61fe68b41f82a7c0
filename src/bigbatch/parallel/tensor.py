"""Matrix products in parts: heads and hidden units of the feed-forward are divided over ranks (Megatron's scheme).

In each block the layers that read the residual stream (query, key, value; up, gate) are cut by columns of outputs, and
those that write to it (attention output, down) by rows of inputs; one sum of the written parts per pair. Beside a layer
that is cut by columns its adapter's B is cut so, and A is whole; beside one that is cut by rows A is, and B is whole.

Source: Shoeybi et al. 2019, arXiv 1909.08053, section 3.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from bigbatch.errors import UsageError
from bigbatch.model.anatomy import Anatomy
from bigbatch.parallel.roles import Role, linear_roles


def share_products(anatomy: Anatomy, mesh: DeviceMesh) -> None:
    """Divide the products of every block over the ranks of a mesh of one axis.

    Raises:
        UsageError: the blocks' layers cannot be told apart or divided, with the reason.
    """
    ranks = mesh.size()
    _check_heads(anatomy, ranks)
    blocks = list(dict.fromkeys(application.module for application in anatomy.blocks))
    # All before the first is divided: they are found by running the model.
    for block, roles in [(block, linear_roles(block, anatomy)) for block in blocks]:
        styles: dict[str, ParallelStyle] = {
            name: ColwiseParallel() if role == "reads" else RowwiseParallel() for name, role in roles.items()
        }
        for name, role in roles.items():
            styles |= _beside(block, name, role)
        parallelize_module(block, mesh, styles)


def _beside(block: nn.Module, name: str, role: Role) -> dict[str, ParallelStyle]:
    """How the adapters of a layer are cut, if it has any.

    Raises:
        UsageError: they need whole weights.
    """
    home, _, last = name.rpartition(".")
    if last != "base_layer":
        return {}
    layer, part = block.get_submodule(home), "lora_B" if role == "reads" else "lora_A"
    adapters = dict(layer.get_submodule(part).named_children())
    if any(True for _ in layer.get_submodule("lora_magnitude_vector").parameters()):
        raise UsageError(
            "plan.mesh.tensor: dora needs the length of every whole row, and rows are cut: take shard, or dora: false"
        )
    style = ColwiseParallel if role == "reads" else RowwiseParallel
    return {f"{home}.{part}.{adapter}": style() for adapter in adapters}


def _check_heads(anatomy: Anatomy, ranks: int) -> None:
    config = getattr(anatomy.outer, "config", None)
    counts = {
        name: getattr(config, name)
        for name in (
            "num_attention_heads",
            "num_key_value_heads",
            "intermediate_size",
            "n_heads",
            "hidden_dim",
        )
        if isinstance(getattr(config, name, None), int)
    }
    bad = [f"{name} {count}" for name, count in counts.items() if count % ranks]
    if bad:
        raise UsageError(f"plan.mesh.tensor: {ranks} ranks do not divide {', '.join(bad)} of this model")
