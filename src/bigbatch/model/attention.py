"""Attention over packed samples, behind transformers' attention interface.

The layout of the micro-batch travels through the keyword arguments that the model hands from layer to
layer, so nothing global is kept: two models, or two threads, cannot see each other's layout. Without a
layout the function is transformers' own SDPA, which keeps the padded path of the same module as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from bigbatch.model.grouped import grouped_attention
from bigbatch.model.layout import Across, Attention, Layout
from bigbatch.model.memory import REMEMBERED, without_gradient
from bigbatch.model.patterns import PATTERN, Pattern, plain_attention
from bigbatch.model.pieces import chunked_groups
from bigbatch.model.varlen import flash_attention, flex_attention

IMPLEMENTATION = "bigbatch_packed"
LAYOUT = "packed_layout"
"""Name of the keyword argument that carries the Layout."""
KERNELS: Mapping[str, Callable[[Tensor, Tensor, Tensor, Attention], Tensor]] = {
    "sdpa": grouped_attention,
    "chunked": chunked_groups,
    "flash": flash_attention,
    "flex": flex_attention,
}
"""What `plan.attention` may name: `sdpa` anywhere, `chunked` on CPUs for models with attention dropout and anywhere for
those with a pattern, `flash` on CUDA in 16 bits, `flex` on accelerators."""
_UNSUPPORTED = ("softcap", "position_bias", "s_aux", "cache", "chunk_size")


class CannotPack(Exception):
    """The model asks for something that packed attention does not do; caught by the trial run."""


class KeysKnown(Exception):
    """Ends the first pass of the last block: keys and values of all tokens are known (`graph.lazy`)."""


def register() -> None:
    """Make the implementation known to transformers; doing it again changes nothing."""
    AttentionInterface.register(IMPLEMENTATION, packed_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


@torch.compiler.disable
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
        options: `packed_layout`, `attention_pattern`, `sliding_window`, `is_causal` and what else the model hands down.

    Returns:
        (1, T, heads, width), None.
    """
    given: Layout | Across | None = options.pop(LAYOUT, None)
    if given is None:
        return plain_attention(module, query, key, value, attention_mask, dropout, scaling, **options)
    key, value = without_gradient(key, value, options.pop(REMEMBERED, None))
    across = isinstance(given, Across)
    layout = given.layout if isinstance(given, Across) else given
    bias = _bias(options, layout)
    window: int | None = options.get("sliding_window")
    pattern: Pattern | None = options.get(PATTERN)
    if layout.witness is not None:
        _refuse_unsupported(options)
        layout.witness(module, window)
    query, key, value = _of_one_dtype(query, key, value)
    causal = options.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)
    last = layout.last
    if last is not None and last.stage == "keys":
        last.keys_1HTW, last.values_1HTW = key, value
        raise KeysKnown
    only_reads = last is not None and last.stage == "queries"
    if only_reads:
        assert last is not None and last.keys_1HTW is not None and last.values_1HTW is not None
        key, value = last.keys_1HTW, last.values_1HTW
    asked = Attention(
        layout=layout,
        reads_only=only_reads,
        window=pattern.window if pattern is not None and pattern.is_window else window,
        pattern=pattern,
        causal=bool(causal),
        dropout=dropout,
        scaling=scaling,
        bias=bias,
        across=across,
    )
    kernel = grouped_attention if across or bias is not None else KERNELS[layout.kernel]
    out_RHW = kernel(query[0], key[0], value[0], asked)
    if layout.one_shape:
        out_RHW = out_RHW.clone(memory_format=torch.contiguous_format)
    return out_RHW.unsqueeze(0), None


def _of_one_dtype(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What kernels are given: autocast's format where it is on, else that of the values.

    Rotary positions have fp32 factors under autocast, which leave fp32 queries and keys beside 16-bit values. torch's
    own attention casts them by itself; others refuse, or compute with one of the two.
    """
    kind, dtype = query.device.type, value.dtype
    if torch.is_autocast_enabled(kind) and dtype is not torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def _bias(options: dict[str, object], layout: Layout) -> Tensor | None:
    """What is added to the scores, taken out of the options where its size is that of a sample, not of the pack."""
    bias = options.get("position_bias")
    if not isinstance(bias, Tensor):
        return None
    none = bias.numel() == 1
    if not none and bias.shape[-1] != layout.longest:
        return None
    del options["position_bias"]
    return None if none else bias


def _refuse_unsupported(options: dict[str, Any]) -> None:
    for name in _UNSUPPORTED:
        if options.get(name) is not None:
            raise CannotPack(f"its attention uses {name}, which the packed path does not have")
