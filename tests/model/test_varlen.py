"""Kernels that take a whole pack: the same numbers as group by group."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bigbatch.graph.lazy import read_tokens_only
from bigbatch.model import varlen
from bigbatch.model.anatomy import anatomy
from bigbatch.model.grouped import grouped_attention
from bigbatch.model.layout import Attention, build_layout
from bigbatch.model.patterns import Pattern
from bigbatch.model.runner import packed_runner
from bigbatch.model.varlen import Unsupported, flash_attention, flex_attention
from tests.models import tiny, tiny_batch

LENGTHS = (12, 12, 5, 9, 3, 20, 1)


def qkv(
    dtype: torch.dtype = torch.float64, device: str = "cpu", lengths: Sequence[int] = LENGTHS
) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(4, sum(lengths), 16, dtype=dtype, device=device).requires_grad_() for _ in range(3)]


def asked(device: str = "cpu", lengths: Sequence[int] = LENGTHS, **options: Any) -> Attention:
    return Attention(layout=build_layout(tiny_batch(lengths), torch.device(device), inputs={}), **options)


def outcome(kernel: Any, given: list[Tensor], wanted: Attention) -> list[Tensor]:
    found = kernel(*given, wanted)
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype, device=found.device).view(found.shape)
    return [found.detach(), *torch.autograd.grad((found * weights).sum(), given)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 4])
# Uncompiled, FlexAttention warns that it is slow: on a CPU it is there to be compared with.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_equals_groups(causal: bool, window: int | None) -> None:
    options: Any = {"causal": causal, "window": window}
    given = [tensor.detach() for tensor in qkv()]
    found, expected = (kernel(*given, asked(**options)) for kernel in (flex_attention, grouped_attention))
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-10)
    with pytest.raises(Unsupported, match="no backward pass on CPUs"):
        flex_attention(*qkv(), asked(**options))


@pytest.mark.parametrize("family", ["bert", "mistral"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_a_model_with_flex_and_its_last_block_lazy(family: str) -> None:
    model = tiny(family).double()
    parts = anatomy(model)
    batch = tiny_batch(LENGTHS, pools=parts.pools)
    found = []
    for attention in ("sdpa", "flex"):
        forward = packed_runner(model, parts, attention=attention)
        read_tokens_only(forward, parts)
        with torch.no_grad():
            found.append(forward(batch))
        forward.close()
    assert torch.allclose(*found, rtol=1e-9, atol=1e-10)


def test_dropout_goes_to_the_groups() -> None:
    given = [tensor.detach() for tensor in qkv()]
    torch.manual_seed(3)
    grouped = grouped_attention(*given, asked(dropout=0.4))
    torch.manual_seed(3)
    assert torch.equal(flex_attention(*given, asked(dropout=0.4)), grouped)


def test_flash_says_what_it_needs() -> None:
    with pytest.raises(Unsupported, match="needs CUDA"):
        flash_attention(*qkv(), asked())


def test_how_flash_attention_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts, longest, scale and windows reach the kernel; a stand-in computes what it is asked for."""
    calls: list[dict[str, Any]] = []

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, starts: Tensor, _: Tensor, longest: int, __: int, **options: Any
    ) -> Tensor:
        calls.append({"starts": starts.tolist(), "longest": longest, **options})
        outputs = []
        left, right = options["window_size"]
        for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            at = torch.arange(end - first)
            ahead = at[None] - at[:, None]
            seen = torch.ones(end - first, end - first, dtype=torch.bool)
            seen &= (left < 0) | (ahead >= -left)
            seen &= (right < 0) | (ahead <= right)
            scores = torch.einsum("qhw,khw->hqk", q[first:end], k[first:end]) * (
                options["scale"] or q.shape[-1] ** -0.5
            )
            outputs.append(
                torch.einsum("hqk,khw->qhw", scores.masked_fill(~seen, -torch.inf).softmax(-1), v[first:end])
            )
        return torch.cat(outputs)

    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", SimpleNamespace(varlen_attn=kernel))
    monkeypatch.setattr(varlen.torch, "float16", torch.float64)

    class OnCuda:
        """A tensor that says it is on CUDA."""

        def __init__(self, tensor: Tensor) -> None:
            self.tensor, self.device, self.dtype = tensor, SimpleNamespace(type="cuda"), tensor.dtype

        def transpose(self, *dims: int) -> Tensor:
            return self.tensor.transpose(*dims)

    for causal in (False, True):
        for window in (None, 4):
            options: Any = {"causal": causal, "window": window}
            given = qkv()
            found = flash_attention(*map(OnCuda, given), asked(**options))  # type: ignore[arg-type]
            expected = grouped_attention(*given, asked(**options))
            assert torch.allclose(found, expected, rtol=1e-9, atol=1e-10), (causal, window)
    assert calls[0]["starts"] == [0, *np.cumsum(LENGTHS).tolist()] and calls[0]["longest"] == 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["flash", "flex"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 4])
def test_on_cuda(kernel: str, causal: bool, window: int | None) -> None:
    dtype, tolerance = (torch.bfloat16, 2e-2) if kernel == "flash" else (torch.float32, 1e-4)
    options: Any = {"causal": causal, "window": window}
    given = qkv(dtype, "cuda")
    run = flash_attention if kernel == "flash" else flex_attention
    expected = outcome(grouped_attention, given, asked("cuda", **options))
    for ours, theirs in zip(outcome(run, given, asked("cuda", **options)), expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < tolerance


PATTERNS = {
    "global": Pattern(window=3, first=2),
    "strided": Pattern(window=2, stride=5),
    "fixed": Pattern(block=6, summary=1),
    "fixed, global": Pattern(block=6, summary=1, first=1),
}
"""Not a window alone: those are runs of keys, without a pattern in the mask."""
LONG = (700, 1, 130, 260)
"""Samples of several blocks of FlexAttention, and one that shares its block."""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", [*PATTERNS, "local"])
def test_patterns_on_cuda(name: str, causal: bool) -> None:
    """FlexAttention compiled, results and gradients: attention of all pairs under a mask written pair by pair."""
    pattern = PATTERNS.get(name, Pattern(window=150))
    given = qkv(torch.float32, "cuda", LONG)
    wanted = asked(
        "cuda", LONG, pattern=pattern, window=pattern.window if name == "local" else None, causal=causal
    )
    expected = outcome(lambda q, k, v, _: under_a_mask(q, k, v, mask_of(pattern, causal)), given, wanted)
    everything = outcome(
        lambda q, k, v, _: under_a_mask(q, k, v, mask_of(Pattern(window=800), causal)), given, wanted
    )
    for ours, theirs, all_seen in zip(
        outcome(flex_attention, given, wanted), expected, everything, strict=True
    ):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-4
        assert float((all_seen - theirs).norm() / theirs.norm()) > 1e-2


@pytest.mark.parametrize(
    ("name", "causal"),
    [
        pytest.param(
            name,
            causal,
            marks=[]
            if (name, causal) in {("strided", True), ("fixed, global", False)}
            else [pytest.mark.stress],
        )
        for name, causal in product([*PATTERNS, "local"], [False, True])
    ],
)
# As above.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_patterns_forward_on_a_cpu(name: str, causal: bool) -> None:
    """The same samples of several blocks, without a gradient, which FlexAttention has not here."""
    pattern = PATTERNS.get(name, Pattern(window=150))
    query, key, value = (tensor.detach() for tensor in qkv(torch.float64, "cpu", LONG))
    wanted = asked(
        "cpu", LONG, pattern=pattern, window=pattern.window if name == "local" else None, causal=causal
    )
    expected = under_a_mask(query, key, value, mask_of(pattern, causal))
    found = flex_attention(query, key, value, wanted)
    assert float((found - expected).norm() / expected.norm()) < 1e-10


def under_a_mask(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """(T, H, W) of queries, keys and values of (H, T, W): all pairs are computed, and hidden ones dropped."""
    scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    return (scores.masked_fill(~seen.to(query.device), -torch.inf).softmax(-1) @ value).transpose(0, 1)


def mask_of(pattern: Pattern, causal: bool) -> Tensor:
    """(T, T) bool of samples of `LONG` lengths: the table of `recipe.attention`, once more."""
    at_T = torch.cat([torch.arange(length) for length in LONG])
    sample_T = torch.arange(len(LONG)).repeat_interleave(torch.tensor(LONG))
    q, k = at_T[:, None], at_T[None]
    if pattern.block:
        near = (q // pattern.block == k // pattern.block) | (
            k % pattern.block >= pattern.block - pattern.summary
        )
    else:
        near = (q - k).abs() < pattern.window
        near = near | ((q - k) % pattern.stride == 0) if pattern.stride else near
    near = near | (q < pattern.first) | (k < pattern.first)
    return near & (sample_T[:, None] == sample_T) & ((k <= q) | (not causal))
