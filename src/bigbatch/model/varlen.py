"""Attention over a pack in one kernel, for accelerators: variable-length flash attention, and FlexAttention.

Both know where samples begin; nothing is padded and no group is formed. What they cannot do (FlexAttention: dropout;
flash attention: queries of read tokens alone) goes to `grouped_attention`. Which of them is used is measured, and
compared with the plain path before a run.

Shapes: T packed tokens, R read tokens, H heads, W width of a head.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bigbatch.model.block_mask import block_mask
from bigbatch.model.flash_dropout import Kernel, flash_with_dropout, why_not
from bigbatch.model.grouped import grouped_attention
from bigbatch.model.layout import Attention
from bigbatch.model.pieces import chunked_groups
from bigbatch.private import keep_compiled_code_private

_WIDTHS = 8
"""The operator needs the width of a head to be a multiple of it; `varlen_attn` says so by itself."""


class Unsupported(Exception):
    """This kernel is not for this device, precision or installation; the sentence says why."""


def flash_attention(query: Tensor, key: Tensor, value: Tensor, asked: Attention) -> Tensor:
    """Variable-length flash attention: torch's own; when weights are dropped, the flash-attn package's or the operator
    behind torch's (`flash_dropout`).

    Args:
        query, key, value, asked: as `grouped_attention` has them; so is the result.

    Raises:
        Unsupported: not CUDA, not 16 bits, or a pattern that is more than a window.
    """
    if query.device.type != "cuda":
        raise Unsupported(f"flash attention needs CUDA; the model is on {query.device.type}")
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise Unsupported(
            f"flash attention computes in bf16 or fp16, not {str(query.dtype).removeprefix('torch.')}"
        )
    if asked.pattern is not None and not asked.pattern.is_window:
        raise Unsupported(f"flash attention has windows alone; this is {asked.pattern}")
    drops = _dropping(query) if asked.dropout else None
    if asked.reads_only or (asked.dropout and drops is None):
        return grouped_attention(query, key, value, asked)
    starts, longest = asked.layout.starts(), int(asked.layout.longest)
    q_THW, k_THW, v_THW = (tensor.transpose(0, 1).contiguous() for tensor in (query, key, value))
    # Flash attention counts the tokens to each side; ours is the distance that is too far.
    reach = -1 if asked.window is None else asked.window - 1
    sides = (reach, 0 if asked.causal else reach)
    if drops is not None:
        return drops(
            q_THW, k_THW, v_THW, starts, longest,
            dropout=asked.dropout, scaling=asked.scaling, causal=asked.causal, sides=sides,
        )  # fmt: skip
    from torch.nn.attention.varlen import varlen_attn

    found = varlen_attn(
        q_THW, k_THW, v_THW, starts, starts, longest, longest,
        scale=asked.scaling, window_size=sides, enable_gqa=q_THW.shape[1] != k_THW.shape[1],
    )  # fmt: skip
    assert isinstance(found, Tensor)
    return found


def _dropping(query: Tensor) -> Kernel | None:
    """What drops weights in one kernel, if anything here does."""
    package = _flash_attn()
    if package is not None:
        return partial(_packaged, package)
    fits = query.shape[-1] % _WIDTHS == 0
    return flash_with_dropout if fits and not why_not(query.device, query.dtype) else None


def _packaged(
    package: Any,
    q_THW: Tensor,
    k_THW: Tensor,
    v_THW: Tensor,
    starts: Tensor,
    longest: int,
    *,
    dropout: float,
    scaling: float | None,
    causal: bool,
    sides: tuple[int, int],
) -> Tensor:
    return package(
        q_THW, k_THW, v_THW, starts, starts, longest, longest,
        dropout_p=dropout, softmax_scale=scaling, causal=causal, window_size=sides,
    )  # fmt: skip


def flex_attention(query: Tensor, key: Tensor, value: Tensor, asked: Attention) -> Tensor:
    """FlexAttention with a mask of sample, causality and window; compiled on accelerators.

    Args:
        query, key, value, asked: as `grouped_attention` has them; so is the result.

    Raises:
        Unsupported: a gradient is wanted on a CPU.
    """
    if query.device.type == "cpu" and query.requires_grad:
        raise Unsupported("FlexAttention has no backward pass on CPUs")
    if asked.dropout:
        return (grouped_attention if asked.pattern is None else chunked_groups)(query, key, value, asked)
    mask = block_mask(asked, query.device)
    kernel, shared = _flex(query.device.type), query.shape[0] != key.shape[0]
    found = kernel(
        query[None], key[None], value[None], block_mask=mask, scale=asked.scaling, enable_gqa=shared
    )
    return found[0].transpose(0, 1)


_compiled_flex: dict[str, Any] = {}
"""FlexAttention compiled, by device type: a cache of code, the same for every model."""


def _flex(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention as kernel

    if device == "cpu":
        return kernel
    if device not in _compiled_flex:
        keep_compiled_code_private()
        _compiled_flex[device] = torch.compile(kernel, dynamic=True)
    return _compiled_flex[device]


def _flash_attn() -> Any:
    """The package's function, if it is installed."""
    try:
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return flash_attn_varlen_func
