"""How many FLOPs an operation takes: torch's table, and what it lacks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def formula_of(name: str, operation: object) -> Callable[..., int] | None:
    """FLOPs as a function of the operation's arguments and `out_val`; None: it computes none, or is unknown."""
    return _FORMULAS.get(name) or flop_registry.get(getattr(operation, "_overloadpacket", operation))


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _cpu_attention_backward(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object
) -> int:
    return sdpa_backward_flop_count(grad_out.shape, query.shape, key.shape, value.shape)


_FORMULAS: dict[str, Callable[..., int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _cpu_attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _cpu_attention_backward,
    "_varlen_attn": flop_registry[aten._flash_attention_forward],
    "_varlen_attn_backward": flop_registry[aten._flash_attention_backward],
    "_linear_pointwise": lambda inputs, weight, *_, **__: 2 * inputs.numel() * weight.shape[0],
    # Logits and, on the way, the gradients of hidden states and weight, if they are wanted.
    "_linear_cross_entropy_batch_chunked": lambda hidden, weight, *rest, **_: (
        2 * (1 + rest[10] + rest[11]) * hidden.shape[0] * weight.numel()
    ),
}
"""Formulas for operations that torch does not list; attention without a mask counts whole scores."""
