"""Dropout on a CPU with a quarter of the random draws: one of 64 bits serves four values.

torch draws, divides and multiplies in three passes; this draws 16 bits a value and multiplies. The probability is
rounded to 1/65536 (0.1 becomes 0.100006), and kept values are scaled by exactly its complement, so the expectation
is unchanged. The draws come from the same generator, so a micro-batch's seed decides its masks as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bigbatch.model.chunked import keep_factors


class QuickDropout(nn.Dropout):
    """`nn.Dropout` with the masks of `keep_factors`; on other devices it is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        """(any shape) -> the same shape."""
        if not self.training or not self.p or input.device.type != "cpu":
            return super().forward(input)
        return _Dropout.apply(input, self.p)  # pyright: ignore


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, p: float) -> Tensor:
        factors = keep_factors(input.shape, p, torch.empty_like(input, memory_format=torch.contiguous_format))
        ctx.save_for_backward(factors)
        return input * factors

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (factors,) = ctx.saved_tensors
        return grads[0] * factors, None


def quick_dropout(module: nn.Module) -> Callable[[], None]:
    """Exchange every plain `nn.Dropout` that drops something on a CPU; returns what undoes it."""
    device = next(module.parameters()).device.type
    chosen = [
        part for part in module.modules() if type(part) is nn.Dropout and part.p > 0 and device == "cpu"
    ]
    # The class alone, so that parents keep their very modules: hooks and copies go on working.
    for part in chosen:
        part.__class__ = QuickDropout

    def undo() -> None:
        for part in chosen:
            part.__class__ = nn.Dropout

    return undo
