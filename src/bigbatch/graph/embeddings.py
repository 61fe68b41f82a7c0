"""Gradients of large embeddings, added in place: a micro-batch touches a thousand rows of thirty thousand.

torch makes a gradient as large as the table for each micro-batch and adds it to the one before. With `sparse=True`
a micro-batch's gradient has the rows of its tokens only; the executor has a dense `.grad` ready, to which autograd
adds them in place. Whoever looks at `.grad` after the pass finds a dense tensor, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

from torch import Tensor, nn

FEWEST_ROWS = 4096
"""Smaller tables are as quick in one piece."""


def rows_in_place(module: nn.Module) -> tuple[list[Tensor], Callable[[], None]]:
    """Have large trainable embeddings on a CPU give gradients of their tokens' rows only.

    Returns:
        The weights that must have a dense `.grad` before the first backward of an update; what undoes it.
    """
    chosen = large_embeddings(module)
    for part in chosen:
        part.sparse = True

    def undo() -> None:
        for part in chosen:
            part.sparse = False

    return list(dict.fromkeys(part.weight for part in chosen)), undo


def large_embeddings(module: nn.Module) -> list[nn.Embedding]:
    """Those whose gradients are worth adding row by row."""
    return [part for part in module.modules() if _pays(part)]


def _pays(part: Any) -> TypeGuard[nn.Embedding]:
    return (
        type(part) is nn.Embedding
        and not part.sparse
        and part.num_embeddings >= FEWEST_ROWS
        and part.weight.requires_grad
        # On accelerators adding rows in place waits for their number.
        and part.weight.device.type == "cpu"
        and part.max_norm is None
        and not part.scale_grad_by_freq
    )
