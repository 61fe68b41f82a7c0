"""Attention with dropout on a CPU, in pieces that stay in the cache.

torch's fused CPU kernel has no dropout, so with dropout it falls back to whole score matrices, several passes over
each. Here the same sums are made for a few heads at a time, with scores, mask and dropout still in the cache, and
the numbers to drop come four to a 64-bit draw. Without dropout torch's own kernel is used.

Shapes: S samples, H heads, N = S x H, Q queries, K keys, W width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bigbatch.model.grouped import expanded, sdpa

_PIECE_BYTES = 2**20
"""Scores that are worked on at a time: fits a core's second-level cache together with its dropout mask. Part of
what decides which masks are drawn, so never measured at run time."""
_DRAWS = 2**16


def chunked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """dropout(softmax(scaling * q k^T + mask)) v, as `scaled_dot_product_attention` computes it.

    Args:
        query: (S, H, Q, W).
        key: (S, H, K, W); query heads may share key heads, which are then fewer.
        value: as the key.
        mask: bool, True where a query sees a key: (S or 1, 1, Q or 1, K) or (Q, K); None: it sees all.
        is_causal: query i sees keys up to i; only without mask.
        dropout: probability, in steps of 1/65536.
        scaling: None: 1 / sqrt(W).

    Returns:
        (S, H, Q, W).
    """
    if not dropout:
        return sdpa(query, key, value, mask, is_causal, 0.0, scaling)
    key, value = expanded(query, key, value)
    if is_causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    bias = None
    if mask is not None:
        mask = mask if mask.ndim == 4 else mask[None, None]
        bias = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill_(~mask, -math.inf)
        bias = bias.squeeze(1)  # (S or 1, Q or 1, K)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _Chunked.apply(query, key, value, bias, dropout, scale)  # pyright: ignore


def keep_factors(
    shape: torch.Size, dropout: float, out: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Dropout's factors 0 or 1 / (1 - p), four to a 64-bit draw.

    Args:
        shape: of the result.
        dropout: p, rounded to 1/65536.
        out: receives them; (shape).
        generator: None: the default one.
    """
    dropped = round(dropout * _DRAWS)
    if dropped == _DRAWS:
        return out.zero_()
    values = math.prod(shape)
    draws = torch.empty((values + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    torch.ge(draws.view(torch.int16)[:values].view(shape), dropped - _DRAWS // 2, out=out)
    return out.mul_(_DRAWS / (_DRAWS - dropped))


class _Chunked(torch.autograd.Function):
    """Saves probabilities and factors; every other large tensor lives for one piece."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float, scale: float
    ) -> Tensor:
        heads = query.shape[1]
        q_NQW, k_NKW, v_NKW = (query * scale).flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
        shape = (*q_NQW.shape[:2], k_NKW.shape[1])
        probabilities_NQK, factors_NQK = q_NQW.new_empty(shape), q_NQW.new_empty(shape)
        out_NQW = torch.empty_like(q_NQW)
        pieces = _pieces(shape, q_NQW.element_size())
        scratch = q_NQW.new_empty((pieces[0].stop, *shape[1:]))
        for piece in pieces:
            scores = scratch[: piece.stop - piece.start]
            torch.bmm(q_NQW[piece], k_NKW[piece].transpose(1, 2), out=scores)
            if bias is not None:
                scores += _bias_of(bias, piece, heads)
            kept = torch.softmax(scores, -1, out=probabilities_NQK[piece])
            factors = keep_factors(kept.shape, dropout, factors_NQK[piece])
            torch.bmm(torch.mul(kept, factors, out=scores), v_NKW[piece], out=out_NQW[piece])
        ctx.save_for_backward(q_NQW, k_NKW, v_NKW, probabilities_NQK, factors_NQK)
        ctx.scale, ctx.pieces = scale, pieces
        return out_NQW.unflatten(0, query.shape[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_NQW, k_NKW, v_NKW, probabilities_NQK, factors_NQK = ctx.saved_tensors
        grad_NQW = grads[0].flatten(0, 1)
        q_grad, k_grad, v_grad = torch.empty_like(q_NQW), torch.empty_like(k_NKW), torch.empty_like(v_NKW)
        scratch = torch.empty_like(probabilities_NQK[ctx.pieces[0]])
        for piece in ctx.pieces:
            work = scratch[: piece.stop - piece.start]
            kept, factors, grad = probabilities_NQK[piece], factors_NQK[piece], grad_NQW[piece]
            torch.mul(kept, factors, out=work)
            torch.bmm(work.transpose(1, 2), grad, out=v_grad[piece])
            torch.bmm(grad, v_NKW[piece].transpose(1, 2), out=work)
            scores = torch.ops.aten._softmax_backward_data(work.mul_(factors), kept, -1, kept.dtype)
            torch.bmm(scores, k_NKW[piece], out=q_grad[piece])
            torch.bmm(scores.transpose(1, 2), q_NQW[piece], out=k_grad[piece])
        samples = grads[0].shape[:2]
        return (
            q_grad.mul_(ctx.scale).unflatten(0, samples),
            k_grad.unflatten(0, samples),
            v_grad.unflatten(0, samples),
            None,
            None,
            None,
        )


def _pieces(shape: tuple[int, ...], value_bytes: int) -> list[slice]:
    """Consecutive parts of the first axis, each of at most `_PIECE_BYTES` or of one matrix."""
    step = max(1, _PIECE_BYTES // (value_bytes * shape[1] * shape[2]))
    return [slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step)]


def _bias_of(bias: Tensor, piece: slice, heads: int) -> Tensor:
    """The part of (S or 1, Q or 1, K) that belongs to these of the S x H matrices."""
    if bias.shape[0] == 1:
        return bias
    return bias.index_select(0, torch.arange(piece.start, piece.stop, device=bias.device) // heads)
