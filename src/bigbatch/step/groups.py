"""Groups of parameters that figures are given for: embeddings, each block, head."""

from __future__ import annotations

from torch import Tensor, nn

from bigbatch.model.anatomy import Anatomy

EMBEDDINGS, BLOCK, HEAD, OTHER = "embeddings", "block", "head", "other"


def parameter_groups(module: nn.Module, anatomy: Anatomy) -> dict[str, str]:
    """Name of every parameter -> its group, in the order of the model.

    A tied tensor belongs to the first group that has it. A block that is applied many times is one group; final norms
    belong to the head.

    Args:
        module: the model; names are those of its `named_parameters`.
        anatomy: its parts.

    Returns:
        `embeddings`, `block.0`, `block.1`, …, `head`, and `other` for what is none of them.
    """
    found: dict[Tensor, str] = {}
    blocks = list(dict.fromkeys(application.module for application in anatomy.blocks))
    norm = [] if anatomy.final_norm is None else [anatomy.final_norm]
    members = [
        *((part, EMBEDDINGS) for part in anatomy.embeddings),
        *((block, f"{BLOCK}.{number}") for number, block in enumerate(blocks)),
        *((part, HEAD) for part in [*norm, *anatomy.head]),
    ]
    for part, group in members:
        for parameter in part.parameters():
            found.setdefault(parameter, group)
    order = list(dict.fromkeys([*(group for _, group in members), OTHER]))
    named = [(name, found.get(parameter, OTHER)) for name, parameter in module.named_parameters()]
    return dict(sorted(named, key=lambda item: order.index(item[1])))
