"""What each linear layer of a block does, found by running it: which read the residual stream, which write to it.

A layer reads when its input is as wide as the stream and its output goes into attention or the feed-forward; it writes
when its output comes back to the stream. In the order in which a block runs them: query, key and value (any order),
then the attention output; up (and gate), then down.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from bigbatch.errors import UsageError
from bigbatch.model.anatomy import Anatomy, evaluating, trial_inputs

Role = Literal["reads", "writes"]


def linear_roles(block: nn.Module, anatomy: Anatomy) -> dict[str, Role]:
    """Role of each linear layer of a block, by its name in the block; those of adapters have none.

    Raises:
        UsageError: the block has layers of another kind, or one layer holds several roles at once.
    """
    others = [
        type(part).__name__
        for part in block.modules()
        if type(part) is not nn.Linear and any(item.ndim >= 2 for item in part.parameters(recurse=False))
    ]
    if others:
        raise UsageError(
            f"plan.mesh.tensor: the blocks have layers of type {others[0]}, whose products cannot be divided yet"
        )
    order = [name for name, _ in _in_order(block, anatomy)]
    if len(order) not in (6, 7):
        raise UsageError(
            f"plan.mesh.tensor: a block of this model has {len(order)} linear layers; expected query, key, value, "
            "attention output, one or two layers up and one down, each of its own"
        )
    writes = (order[3], order[-1])
    return {name: "writes" if name in writes else "reads" for name in order}


def _in_order(block: nn.Module, anatomy: Anatomy) -> list[tuple[str, nn.Linear]]:
    """The linear layers of a block as they run."""
    seen: list[tuple[str, nn.Linear]] = []

    def note(name: str, layer: nn.Linear):
        return lambda *_: seen.append((name, layer)) if all(name != other for other, _ in seen) else None

    handles = [
        layer.register_forward_pre_hook(note(name, layer))
        for name, layer in block.named_modules()
        if type(layer) is nn.Linear and ".lora_" not in name
    ]
    try:
        with evaluating(anatomy.outer), torch.no_grad():
            anatomy.outer(**trial_inputs(anatomy.outer))
    finally:
        for handle in handles:
            handle.remove()
    return seen
