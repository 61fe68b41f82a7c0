"""Attention over packed samples, behind transformers' attention interface.

The layout of the micro-batch travels through the keyword arguments that the model hands from layer to
layer, so nothing global is kept: two models, or two threads, cannot see each other's layout. Without a
layout the function is transformers' own SDPA, which keeps the padded path of the same module as it was.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bigbatch.model.layout import Group, Layout

IMPLEMENTATION = "bigbatch_packed"
LAYOUT = "packed_layout"
"""Name of the keyword argument that carries the Layout."""
_UNSUPPORTED = ("softcap", "position_bias", "s_aux", "cache", "chunk_size")


class CannotPack(Exception):
    """The model asks for something that packed attention does not do; caught by the trial run."""


def register() -> None:
    """Make the implementation known to transformers; doing it again changes nothing."""
    AttentionInterface.register(IMPLEMENTATION, packed_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention inside each sample of a pack (signature of transformers' interface).

    Args:
        module: the attention module; says whether it is causal and how many query heads share a key head.
        query: (1, heads, T, width).
        key: (1, key heads, T, width).
        value: (1, key heads, T, width).
        attention_mask: ignored when there is a layout.
        dropout: probability of dropping an attention weight.
        scaling: factor on the scores.
        options: `packed_layout`, `sliding_window`, `is_causal` and what else the model hands down.

    Returns:
        (1, T, heads, width), None.
    """
    layout: Layout | None = options.pop(LAYOUT, None)
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    window: int | None = options.get("sliding_window")
    if layout.witness is not None:
        _refuse_unsupported(options)
        layout.witness(module, window)
    causal = options.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    sizes = [group.tokens for group in layout.groups]
    parts = [
        tensor[0].transpose(0, 1).split(sizes) for tensor in (query, key, value)
    ]  # (tokens, heads, width)
    outputs = []
    for group, q_THW, k_THW, v_THW in zip(layout.groups, *parts, strict=True):
        mask, flag = _mask(layout, group, window, bool(causal))
        attended = functional.scaled_dot_product_attention(
            _spread(q_THW, group),
            _spread(k_THW, group),
            _spread(v_THW, group),
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=flag,
            scale=scaling,
        )
        outputs.append(_collect(attended, group))
    out_THW = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return out_THW.unsqueeze(0), None


def _refuse_unsupported(options: dict[str, Any]) -> None:
    for name in _UNSUPPORTED:
        if options.get(name) is not None:
            raise CannotPack(f"its attention uses {name}, which the packed path does not have")


def _mask(layout: Layout, group: Group, window: int | None, causal: bool) -> tuple[Tensor | None, bool]:
    """Mask and causal flag of a group. Padding is at the end, so causal attention never reaches it."""
    if window is not None and window < group.longest:
        band = layout.band(group.longest, window, causal)
        # A padded query far behind its sample's end would see no key at all, and its NaN would reach the
        # gradient: it may see the padding instead, which nothing reads.
        mask = band if group.real_BK is None else band & (group.real_BK | ~group.real_BK.transpose(2, 3))
        return mask, False
    if causal:
        return None, True
    return group.real_BK, False


def _spread(x_THW: Tensor, group: Group) -> Tensor:
    """(tokens, heads, width) -> (samples, heads, longest, width); equal lengths are a reshape only."""
    if group.slots_T is not None:
        x_THW = _Scatter.apply(x_THW, group.slots_T, group.samples * group.longest)  # pyright: ignore
    return x_THW.unflatten(0, (group.samples, group.longest)).transpose(1, 2)


def _collect(x_BHLW: Tensor, group: Group) -> Tensor:
    """(samples, heads, longest, width) -> (tokens, heads, width)."""
    x_SHW = x_BHLW.transpose(1, 2).flatten(0, 1)
    return x_SHW if group.slots_T is None else _Gather.apply(x_SHW, group.slots_T)  # pyright: ignore


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
