"""Attention over a pack in one kernel, for accelerators: variable-length flash attention, and FlexAttention.

Both know where samples begin; nothing is padded and no group is formed. What they cannot do (dropout, precisions,
queries of read tokens alone) goes to `grouped_attention`. Which of them is used is measured, and compared with the
plain path before a run.

Shapes: T packed tokens, R read tokens, H heads, W width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bigbatch.model.grouped import grouped_attention
from bigbatch.model.layout import Layout


class Unsupported(Exception):
    """This kernel is not for this device, precision or installation; the sentence says why."""


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    reads_only: bool,
    window: int | None,
    causal: bool,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Variable-length flash attention: torch's own, or the flash-attn package's when weights are dropped.

    Args and result as `grouped_attention`.

    Raises:
        Unsupported: not CUDA, not 16 bits.
    """
    options: Any = dict(window=window, causal=causal, dropout=dropout, scaling=scaling)
    if query.device.type != "cuda":
        raise Unsupported(f"flash attention needs CUDA; the model is on {query.device.type}")
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise Unsupported(
            f"flash attention computes in bf16 or fp16, not {str(query.dtype).removeprefix('torch.')}"
        )
    package = _flash_attn() if dropout else None
    if reads_only or (dropout and package is None):
        return grouped_attention(query, key, value, layout, reads_only=reads_only, **options)
    starts, longest = layout.starts(), int(layout.longest)
    q_THW, k_THW, v_THW = (tensor.transpose(0, 1).contiguous() for tensor in (query, key, value))
    # Flash attention counts the tokens to each side; ours is the distance that is too far.
    reach = -1 if window is None else window - 1
    sides = (reach, 0 if causal else reach)
    if package is not None:
        return package(
            q_THW, k_THW, v_THW, starts, starts, longest, longest,
            dropout_p=dropout, softmax_scale=scaling, causal=causal, window_size=sides,
        )  # fmt: skip
    from torch.nn.attention.varlen import varlen_attn

    found = varlen_attn(
        q_THW, k_THW, v_THW, starts, starts, longest, longest, scale=scaling, window_size=sides
    )
    assert isinstance(found, Tensor)
    return found


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    reads_only: bool,
    window: int | None,
    causal: bool,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """FlexAttention with a mask of sample, causality and window; compiled on accelerators.

    Args and result as `grouped_attention`.

    Raises:
        Unsupported: a gradient is wanted on a CPU.
    """
    if query.device.type == "cpu" and query.requires_grad:
        raise Unsupported("FlexAttention has no backward pass on CPUs")
    if dropout:
        return grouped_attention(
            query, key, value, layout,
            reads_only=reads_only, window=window, causal=causal, dropout=dropout, scaling=scaling,
        )  # fmt: skip
    rows = layout.last.rows_R if reads_only and layout.last is not None else None
    mask = _block_mask(layout, rows, window, causal, query.device)
    kernel = _flex(query.device.type)
    found = kernel(query[None], key[None], value[None], block_mask=mask, scale=scaling)
    return found[0].transpose(0, 1)


def _block_mask(
    layout: Layout, rows: Tensor | None, window: int | None, causal: bool, device: torch.device
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    key = ("flex", rows is not None, window, causal)
    if key not in layout.masks:
        sample_T = layout.sample_of_token()

        def seen(_batch: Tensor, _head: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
            at = query_at if rows is None else rows[query_at]
            same = sample_T[at] == sample_T[key_at]
            if causal:
                same = same & (key_at <= at)
            return same if window is None else same & ((at - key_at).abs() < window)

        queries = len(sample_T) if rows is None else len(rows)
        layout.masks[key] = create_block_mask(seen, None, None, queries, len(sample_T), device=str(device))
    return layout.masks[key]


_compiled_flex: dict[str, Any] = {}
"""FlexAttention compiled, by device type: a cache of code, the same for every model."""


def _flex(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention as kernel

    if device == "cpu":
        return kernel
    if device not in _compiled_flex:
        _compiled_flex[device] = torch.compile(kernel, dynamic=True)
    return _compiled_flex[device]


def _flash_attn() -> Any:
    """The package's function, if it is installed."""
    try:
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return flash_attn_varlen_func
