"""Cross-entropy over a vocabulary whose product is made in 16 bits, a chunk of logits at a time.

    logits = h W^T + b, multiplied in 16 bits        loss = log sum exp(logits) - logits[token], in fp32

torch's `linear_cross_entropy` sums the losses and the chunks' gradients of W in the format of its inputs, which is too
coarse in bf16. Here both are fp32: each chunk is rounded once, as autocast rounds the gradient of a whole layer.

Shapes: U units, V token ids, D hidden width, C units of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""A value that does not count, as torch has it."""
_Gradients = tuple["Tensor | None", "Tensor | None", "Tensor | None"]


def low_entropy(
    hidden_UD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    values_U: Tensor,
    *,
    dtype: torch.dtype,
    rows: int,
    summed: bool,
) -> Tensor:
    """-log softmax(h W^T + b)[value], nats, fp32: one value a unit (U,), or their sum (); 0 where the value is -100.

    A sum in bf16 has its gradients computed on the way forward, which saves one product of four. In fp16 they are
    computed on the way back, since only there they have the loss scale that keeps small ones from vanishing.

    Args:
        hidden_UD: (U, D) fp32.
        weight_VD: (V, D) fp32; its gradient is fp32, too.
        bias_V: (V,) or None.
        values_U: (U,) int64.
        dtype: bf16 or fp16.
        rows: units whose logits may exist at a time.
        summed: whether to return the sum.
    """
    at_once = summed and dtype is torch.bfloat16 and torch.is_grad_enabled()
    losses = _LowEntropy.apply(hidden_UD, weight_VD, bias_V, values_U, dtype, rows, at_once)
    return losses.sum() if summed and not at_once else losses  # pyright: ignore


class _LowEntropy(torch.autograd.Function):
    """Keeps 16-bit copies for the way back, or the gradients themselves."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_UD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        values_U: Tensor,
        dtype: torch.dtype,
        rows: int,
        at_once: bool,
    ) -> Tensor:
        factors = (hidden_UD.to(dtype), weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype))
        losses_U = hidden_UD.new_empty(len(hidden_UD), dtype=torch.float32)
        ctx.gradients = None
        if at_once:
            ctx.gradients = _gradients(ctx, factors, values_U, rows, None, losses_U)
            return losses_U.sum()
        for part in _parts(len(losses_U), rows):
            _losses(factors, values_U, part, losses_U)
        ctx.save_for_backward(*factors, values_U)
        ctx.rows = rows
        return losses_U

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is not None:
            found, ctx.gradients = ctx.gradients, None
            return *(None if each is None else each.mul_(grads[0]) for each in found), None, None, None, None
        hidden_UD, weight_VD, bias_V, values_U = ctx.saved_tensors
        factors = (hidden_UD, weight_VD, bias_V)
        return *_gradients(ctx, factors, values_U, ctx.rows, grads[0], None), None, None, None, None


_Factors = tuple[Tensor, Tensor, "Tensor | None"]


def _parts(units: int, rows: int) -> list[slice]:
    return [slice(first, min(first + rows, units)) for first in range(0, units, rows)]


def _losses(factors: _Factors, values_U: Tensor, part: slice, losses_U: Tensor | None) -> Tensor:
    """The losses of a part, and (C, V) fp32 logarithms of its probabilities."""
    hidden_UD, weight_VD, bias_V = factors
    logs_CV = functional.linear(hidden_UD[part], weight_VD, bias_V).float()
    logs_CV -= logs_CV.logsumexp(-1, keepdim=True)
    if losses_U is not None:
        losses_U[part] = functional.nll_loss(logs_CV, values_U[part], ignore_index=IGNORED, reduction="none")
    return logs_CV


def _gradients(
    ctx: Any, factors: _Factors, values_U: Tensor, rows: int, above_U: Tensor | None, losses_U: Tensor | None
) -> _Gradients:
    """Of hidden states, weight and bias, fp32; None where nobody wants one. `above_U`: of the losses; None: 1."""
    hidden_UD, weight_VD, bias_V = factors
    wanted = [wants and each is not None for wants, each in zip(ctx.needs_input_grad, factors, strict=False)]
    of_hidden, of_weight, of_bias = (
        torch.zeros_like(each, dtype=torch.float32) if wants and each is not None else None
        for wants, each in zip(wanted, (hidden_UD, weight_VD, bias_V), strict=True)
    )
    for part in _parts(len(hidden_UD), rows):
        of_logits_CV = _losses(factors, values_U, part, losses_U).exp_()
        values_C1 = values_U[part, None]
        counted_C1 = values_C1 != IGNORED
        of_logits_CV.scatter_add_(1, values_C1.clamp_min(0), -torch.ones_like(of_logits_CV[:, :1]))
        of_logits_CV *= counted_C1 if above_U is None else counted_C1 * above_U[part, None]
        low_CV = of_logits_CV.to(hidden_UD.dtype)
        if of_hidden is not None:
            of_hidden[part] = low_CV @ weight_VD
        if of_weight is not None:
            of_weight += low_CV.T @ hidden_UD[part]
        if of_bias is not None:
            of_bias += of_logits_CV.sum(0)
    return of_hidden, of_weight, of_bias
