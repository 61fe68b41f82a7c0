"""Less memory for more computation: chosen blocks compute their activations again in the backward pass.

transformers' layers know how to do this; which of them do is decided here, block by block, so that as few FLOPs as
the memory allows are spent twice. Dropout masks are repeated: torch keeps the generator's state of each block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

from bigbatch.model.anatomy import Anatomy
from bigbatch.model.products import has_onednn
from bigbatch.plan.forward import Recompute

_aten = torch.ops.aten
KEPT = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._flash_attention_forward.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    *((torch.ops.mkldnn._linear_pointwise.default,) if has_onednn() else ()),
}
"""Matrix products and attention: `selective` keeps their results and computes the cheap rest again."""


def candidates(parts: Anatomy) -> list[nn.Module]:
    """Blocks that can recompute, in the order in which they run; the last block never does.

    Its activations are the first that the backward pass frees, so keeping them costs no memory at the peak.
    """
    last = parts.blocks[-1].module
    blocks = dict.fromkeys(application.module for application in parts.blocks)
    return [block for block in blocks if block is not last and isinstance(block, GradientCheckpointingLayer)]


def recompute(parts: Anatomy, kind: Recompute, blocks: int) -> Callable[[], None]:
    """Have `blocks` of the candidates, evenly spaced, recompute; returns what undoes it.

    Args:
        parts: of the model.
        kind: `blocks`: everything of a block; `selective`: all but matrix products and attention.
        blocks: how many.
    """
    found = candidates(parts)
    count = min(blocks, len(found)) if kind != "none" else 0
    chosen: list[Any] = [found[index * len(found) // count] for index in range(count)]
    before = [
        (block.gradient_checkpointing, getattr(block, "_gradient_checkpointing_func", None))
        for block in chosen
    ]
    for block in chosen:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = _again if kind == "blocks" else _cheap_again

    def undo() -> None:
        for block, (was_on, function) in zip(chosen, before, strict=True):
            block.gradient_checkpointing = was_on
            block._gradient_checkpointing_func = function

    return undo


_again = partial(checkpoint, use_reentrant=False)


def _policy(_context: object, operation: object, *_args: object, **_kwargs: object) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


_cheap_again = partial(
    checkpoint, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, _policy)
)
