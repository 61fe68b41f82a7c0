"""Attention over a pack, group by group: neighbours of similar length share one call, padded to their longest.

Any device, any dtype, dropout, causal and sliding windows, patterns, queries of the read tokens alone (`graph.lazy`).

Shapes: T packed tokens, R read tokens, H heads, W width of a head, S slots of a padded group, Q queries of the sample
that has most, K keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bigbatch.model.layout import Attention, Group, Layout, ReadGroup
from bigbatch.model.patterns import Pattern

Inner = Callable[[Tensor, Tensor, Tensor, "Tensor | None", bool, float, "float | None"], Tensor]
"""(query, key, value, mask, is_causal, dropout, scaling) of a group -> (samples, H, Q, W)."""
Spread = tuple[Tensor, Tensor, Tensor]
Attend = Callable[[Spread, Group, "Group | ReadGroup", Attention], Tensor]


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Torch's own attention of one group; key heads may be fewer than query heads.

    Args:
        query: (S, heads, Q, W): S samples of equal length, W the width of a head.
        key: (S, key heads, K, W).
        value: as `key`.
        mask: bool, true where a query sees a key, broadcast to (S, heads, Q, K); None: all, or `is_causal`.
        is_causal: each query sees keys up to its own place.
        dropout: share of attention weights that are dropped.
        scaling: of the products; None: 1 / sqrt(W).
    """
    shared = query.shape[1] != key.shape[1]
    if shared and not _takes_shared_heads(query, mask):
        key, value = expanded(query, key, value)
        shared = False
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=is_causal,
        scale=scaling,
        enable_gqa=shared,
    )


def _takes_shared_heads(query: Tensor, mask: Tensor | None) -> bool:
    """Whether a kernel shares key heads by itself. On CUDA flash attention does; what it does not take (a mask, fp32)
    goes to one that does not, and the way that is left for it keeps all scores.
    """
    return query.device.type != "cuda" or (mask is None and query.dtype in (torch.float16, torch.bfloat16))


def expanded(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (S, key heads, K, W) with each head as often as queries share it.

    Args:
        query: (S, heads, Q, W).
        key: (S, key heads, K, W); heads are a multiple of key heads.
        value: as `key`.
    """
    shared = query.shape[1] // key.shape[1]
    return (
        (key, value)
        if shared == 1
        else (key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1))
    )


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, asked: Attention, *, attend: Attend | None = None
) -> Tensor:
    """Attention inside each sample.

    Args:
        query: (H, T, W), or (H, R, W) of read tokens alone.
        key: (H, T, W); query heads may share key heads, which are then fewer.
        value: as the key.
        asked: by the layer.
        attend: attention of one group; None: `dense_group`.

    Returns:
        (T or R, H, W).
    """
    layout, attend = asked.layout, attend or dense_group
    wanted = layout.last.groups if asked.reads_only and layout.last is not None else layout.groups
    seen = layout.groups
    if asked.across:
        wanted, seen = zip(*layout.across, strict=True)
    parts = [
        tensor.transpose(0, 1).split([_rows(group) for group in groups])  # (rows, heads, width)
        for tensor, groups in ((query, wanted), (key, seen), (value, seen))
    ]
    outputs = []
    for group, asking, q_RHW, k_THW, v_THW in zip(seen, wanted, *parts, strict=True):
        if len(q_RHW) == 0:
            outputs.append(q_RHW)
            continue
        spread = (
            _spread(q_RHW, group.samples, asking),
            _spread(k_THW, group.samples, group),
            _spread(v_THW, group.samples, group),
        )
        outputs.append(_collect(attend(spread, group, asking, asked), asking))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def dense_group(
    spread: Spread, group: Group, asking: Group | ReadGroup, asked: Attention, *, inner: Inner = sdpa
) -> Tensor:
    """A group by all pairs of its samples, those that are not seen under a mask: (samples, H, Q, W).

    Args:
        spread: queries, keys and values of the group.
        group: the keys.
        asking: the queries.
        asked: by the layer.
        inner: what computes them.
    """
    pattern = None if asked.pattern is None or asked.pattern.is_window else asked.pattern
    if isinstance(asking, ReadGroup):
        mask, flag = _mask_of_reads(group, asking, asked.window, asked.causal, pattern), False
    elif asked.across:
        mask, flag = group.real_BK, False
    else:
        mask, flag = _mask(asked.layout, group, asked.window, asked.causal, pattern)
    if asked.bias is not None:
        mask, flag = _with_bias(asked.bias.to(spread[0].dtype), group, mask, flag), False
    return inner(*spread, mask, flag, asked.dropout, asked.scaling)


def _mask(
    layout: Layout, group: Group, window: int | None, causal: bool, pattern: Pattern | None
) -> tuple[Tensor | None, bool]:
    """Mask and causal flag of a group. Padding is at the end, so causal attention never reaches it."""
    patterned = pattern is not None and not pattern.covers(group.longest)
    if patterned or (window is not None and window < group.longest):
        band = layout.band(group.longest, pattern if pattern is not None else window, causal)
        # A padded query far behind its sample's end would see no key at all, and its NaN would reach the
        # gradient: it may see the padding instead, which nothing reads.
        mask = band if group.real_BK is None else band & (group.real_BK | ~group.real_BK.transpose(2, 3))
        return mask, False
    if causal:
        return None, True
    return group.real_BK, False


def _with_bias(bias_1HLL: Tensor, group: Group, mask: Tensor | None, causal: bool) -> Tensor:
    """(1 or samples, H, longest, longest) the bias of the group's places, -inf where a query does not see a key."""
    longest = group.longest
    bias = bias_1HLL[:, :, :longest, :longest]
    if causal:
        mask = torch.ones(longest, longest, dtype=torch.bool, device=bias.device).tril()
    return bias if mask is None else bias.masked_fill(~mask, float("-inf"))


def _mask_of_reads(
    group: Group, asking: ReadGroup, window: int | None, causal: bool, pattern: Pattern | None
) -> Tensor | None:
    """(samples, 1, most, longest) bool for the queries of read tokens, or None when they see every key.

    An empty slot asks for the first token of its sample: never without a key, and nothing reads its answer.
    """
    reach = window if window is not None and window < group.longest else None
    if reach is None and pattern is None and (not causal or asking.all_last):
        return group.real_BK
    at_BQ1 = asking.at_BQ[:, :, None]
    key_at = torch.arange(group.longest, device=at_BQ1.device)
    seen_BQK = torch.ones_like(at_BQ1, dtype=torch.bool) if not causal else key_at <= at_BQ1
    if reach is not None:
        seen_BQK = seen_BQK & ((at_BQ1 - key_at).abs() < reach)
    if pattern is not None:
        seen_BQK = seen_BQK & pattern.seen(at_BQ1, key_at)
    mask = seen_BQK[:, None]
    return mask if group.real_BK is None else mask & group.real_BK


def _rows(group: Group | ReadGroup) -> int:
    return group.tokens if isinstance(group, Group) else group.rows


def _spread(x_RHW: Tensor, samples: int, group: Group | ReadGroup) -> Tensor:
    """(rows, heads, width) -> (samples, heads, most rows of one, width); equal numbers are a reshape only."""
    slots, most = (group.slots_T, group.longest) if isinstance(group, Group) else (group.slots_R, group.most)
    if slots is not None:
        x_RHW = scatter_rows(x_RHW, slots, samples * most)
    return x_RHW.unflatten(0, (samples, most)).transpose(1, 2)


def _collect(x_BHLW: Tensor, group: Group | ReadGroup) -> Tensor:
    """(samples, heads, most rows of one, width) -> (rows, heads, width)."""
    slots = group.slots_T if isinstance(group, Group) else group.slots_R
    x_SHW = x_BHLW.transpose(1, 2).flatten(0, 1)
    return x_SHW if slots is None else gather_rows(x_SHW, slots)


def scatter_rows(x: Tensor, slots: Tensor, rows: int) -> Tensor:
    """(n, ...) to `rows` rows at distinct `slots` (n,), zeros elsewhere; differentiable.

    Args:
        x: (n, …).
        slots: (n,) int64, distinct.
        rows: of the result.
    """
    return _Scatter.apply(x, slots, rows)  # pyright: ignore


def gather_rows(x: Tensor, slots: Tensor) -> Tensor:
    """The rows of x at distinct `slots`; differentiable."""
    return _Gather.apply(x, slots)  # pyright: ignore


class _Scatter(torch.autograd.Function):
    """Rows to their slots, zeros elsewhere. The slots are unique, so the gradient is a plain gather.

    torch's own gradient of a gather adds row by row, which is slow on CPUs and unordered on GPUs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(slots)
        return x.new_zeros(rows, *x.shape[1:]).index_copy_(0, slots, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return grads[0].index_select(0, slots), None, None


class _Gather(torch.autograd.Function):
    """Slots back to rows; the inverse of `_Scatter`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.rows = x.shape[0]
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        grad = grads[0]
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, slots, grad), None
