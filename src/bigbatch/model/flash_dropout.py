"""Variable-length flash attention that drops weights. torch has the kernel, but no public function that reaches it.

`varlen_attn` fixes the probability at 0. The operator below it takes one, and has a derivative. It is no public name,
so it is tried before it is used: against the formula with a probability that drops nothing, and with one that drops
half.

Shapes: T packed tokens, H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_LENGTHS = (5, 130, 64)
_HEADS, _WIDTH = 2, 64
_NOTHING, _HALF = 1e-6, 0.5
_ROUNDING = 2e-2
"""Of 16-bit attention against fp32, relative to the whole tensor."""
_CHANCE = 0.1
"""Of a mean over some ten thousand draws; twice the kernel's own noise is far below."""

Kernel = Callable[..., Tensor]
"""(query, key, value, starts, longest, *, dropout, scaling, causal, sides) -> (T, H, W)."""


def flash_with_dropout(
    query_THW: Tensor,
    key_THW: Tensor,
    value_THW: Tensor,
    starts: Tensor,
    longest: int,
    *,
    dropout: float,
    scaling: float | None,
    causal: bool,
    sides: tuple[int, int],
) -> Tensor:
    """dropout(softmax(scaling q k^T)) v inside each sample (T, H, W).

    Args:
        query_THW: 16 bits, on CUDA.
        key_THW: query heads may share key heads, which are then fewer.
        value_THW: as the key.
        starts: (B + 1,) int32 where samples begin, and where the last ends.
        longest: tokens of the longest.
        dropout: probability of dropping a weight; the masks come from the device's generator.
        scaling: None: 1 / sqrt(W).
        causal: a token sees none behind it.
        sides: tokens seen to the left and to the right; -1: all.
    """
    return torch.ops.aten._flash_attention_forward(
        query_THW,
        key_THW,
        value_THW,
        starts,
        starts,
        longest,
        longest,
        dropout,
        causal,
        return_debug_mask=False,
        scale=scaling,
        window_size_left=sides[0],
        window_size_right=sides[1],
    )[0]


@cache
def why_not(device: torch.device, dtype: torch.dtype) -> str:
    """Why the kernel is not used here; empty when it has shown what it should."""
    try:
        with (
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            torch.random.fork_rng([device], device_type=device.type),
        ):
            return trial(flash_with_dropout, device, dtype)
    except Exception as error:  # another version's operator may take other arguments; the groups remain
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def trial(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> str:
    """What a kernel does wrong on three samples; empty when nothing.

    Where nothing is dropped, output and gradients are those of the formula. Where half is dropped, ones stay ones on
    average, the same seed gives the same masks, and forward and backward have the same: the output is linear in the
    values, so <output, w> = <values, their gradient>.

    Args:
        kernel: to be tried.
        device: an accelerator.
        dtype: of queries, keys and values: fp16 or bf16.
    """
    torch.manual_seed(0)
    total = sum(_LENGTHS)
    shape = (total, _HEADS, _WIDTH)
    q, k, v = (torch.randn(shape, device=device, dtype=dtype).requires_grad_() for _ in range(3))
    weights = torch.randn(shape, device=device, dtype=dtype)
    bounds = [0, *torch.tensor(_LENGTHS).cumsum(0).tolist()]
    starts = torch.tensor(bounds, dtype=torch.int32, device=device)

    def run(values: Tensor, dropout: float, causal: bool = False) -> Tensor:
        options: Any = {
            "dropout": dropout,
            "scaling": None,
            "causal": causal,
            "sides": (-1, 0 if causal else -1),
        }
        return kernel(q, k, values, starts, max(_LENGTHS), **options)

    for causal in (False, True):
        plain = _formula(q, k, v, causal)
        expected = [plain.detach(), *torch.autograd.grad((plain * weights).sum(), (q, k, v))]
        out = run(v, _NOTHING, causal)
        found = [out.detach(), *torch.autograd.grad((out * weights).sum(), (q, k, v))]
        errors = [
            float((one.float() - other.float()).norm() / other.float().norm())
            for one, other in zip(found, expected, strict=True)
        ]
        if not max(errors) <= _ROUNDING:
            return f"with nothing dropped it is {max(errors):.1%} off the formula"
    ones = run(torch.ones_like(v), _HALF).detach().float()
    if not abs(float(ones.mean()) - 1) <= _CHANCE or float(ones.std()) < _ROUNDING:
        return f"with half of the weights dropped, ones have the mean {float(ones.mean()):.3f}"
    torch.manual_seed(1)
    out = run(v, _HALF)
    torch.manual_seed(1)
    if not torch.equal(out, run(v, _HALF)):
        return "the same seed drops other weights"
    (of_values,) = torch.autograd.grad((out * weights).sum(), (v,))
    products = (out * weights).detach().double()
    forward, backward = products.sum(), (v.detach() * of_values).double().sum()
    size = products.square().sum().sqrt()
    if not float((forward - backward).abs()) <= 2 * _ROUNDING * float(size):
        return "its backward pass has other masks than its forward pass"
    return ""


def _formula(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    outputs = []
    for q_LHW, k_LHW, v_LHW in zip(*(x.float().split(_LENGTHS) for x in (q, k, v)), strict=True):
        scores_HQK = torch.einsum("qhw,khw->hqk", q_LHW, k_LHW) * _WIDTH**-0.5
        if causal:
            hidden = torch.ones_like(scores_HQK, dtype=torch.bool).triu(1)
            scores_HQK = scores_HQK.masked_fill(hidden, -torch.inf)
        outputs.append(torch.einsum("hqk,khw->qhw", scores_HQK.softmax(-1), v_LHW))
    return torch.cat(outputs)
