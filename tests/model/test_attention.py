"""The attention function on its own, against the formula written out."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bigbatch.model.attention import KERNELS, LAYOUT, CannotPack, packed_attention
from bigbatch.model.layout import build_layout
from tests.models import tiny_batch

LENGTHS = (7, 7, 1, 4, 12, 11)


def _formula(q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None) -> Tensor:
    """softmax(q k^T / 3 + mask) v of one sample, (heads, length, width)."""
    at = torch.arange(q.shape[1])
    behind = at[:, None] - at[None, :]
    allowed = torch.ones_like(behind, dtype=torch.bool)
    if causal:
        allowed &= behind >= 0
    if window is not None:
        allowed &= behind.abs() < window
    scores = (q @ k.transpose(1, 2) / 3).masked_fill(~allowed, float("-inf"))
    return scores.softmax(-1) @ v


def _states(key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(1, heads, sum(LENGTHS), 8, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, key_heads, key_heads)
    )  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3, 11, 40])
def test_it_is_attention_inside_each_sample(key_heads: int, causal: bool, window: int | None) -> None:
    q, k, v = _states(key_heads)
    layout = build_layout(tiny_batch(LENGTHS), torch.device("cpu"), inputs={})
    module: Any = SimpleNamespace(is_causal=causal)
    found, weights = packed_attention(
        module, q, k, v, None, scaling=1 / 3, sliding_window=window, **{LAYOUT: layout}
    )
    assert weights is None
    wide = [x.repeat_interleave(4 // key_heads, 1)[0].split(LENGTHS, 1) for x in (k, v)]
    parts = [
        _formula(qs, ks, vs, causal, window) for qs, ks, vs in zip(q[0].split(LENGTHS, 1), *wide, strict=True)
    ]
    expected = torch.cat(parts, 1).transpose(0, 1)[None]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(found.square().sum(), (q, k, v))
    theirs = torch.autograd.grad(expected.square().sum(), (q, k, v))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_nan_in_one_sample_stays_there() -> None:
    q, k, v = (x.detach().clone() for x in _states(4))
    for x in (q, k, v):
        x[:, :, 15:19] = float("nan")  # the fourth sample, padded together with others
    layout = build_layout(tiny_batch(LENGTHS), torch.device("cpu"), inputs={})
    found, _ = packed_attention(SimpleNamespace(is_causal=False), q, k, v, None, **{LAYOUT: layout})  # pyright: ignore
    healthy = torch.ones(sum(LENGTHS), dtype=torch.bool)
    healthy[15:19] = False
    assert found[:, healthy].isfinite().all()


def test_dropout_drops_attention_weights() -> None:
    q, k, _ = _states(4)
    ones = torch.ones_like(q)
    layout = build_layout(tiny_batch(LENGTHS), torch.device("cpu"), inputs={})
    torch.manual_seed(0)
    module: Any = SimpleNamespace(is_causal=False)
    kept, _ = packed_attention(module, q, k, ones, None, dropout=0.0, **{LAYOUT: layout})
    dropped, _ = packed_attention(module, q, k, ones, None, dropout=0.5, **{LAYOUT: layout})
    assert kept.allclose(torch.ones_like(kept))
    assert dropped.std() > 0.1
    assert abs(float(dropped.detach().mean()) - 1) < 0.15


def test_what_it_does_not_know_is_said_in_a_trial() -> None:
    q, k, v = _states(4)
    layout = replace(
        build_layout(tiny_batch(LENGTHS), torch.device("cpu"), inputs={}),
        witness=lambda _module, _window: None,
    )
    with pytest.raises(CannotPack, match="softcap"):
        packed_attention(SimpleNamespace(), q, k, v, None, softcap=30.0, **{LAYOUT: layout})  # pyright: ignore


@pytest.mark.parametrize("kernel", ["sdpa", "chunked", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_shared_key_heads_are_not_copied(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are given them as they are, and keep them so for the backward pass."""
    q, k, v = (x.detach() if kernel == "flex" else x for x in _states(1))
    given: list[tuple[int, ...]] = []
    inner = KERNELS[kernel]

    def spy(*heads: Any, **options: Any) -> Tensor:
        given.extend(tuple(each.shape) for each in heads[:3])
        return inner(*heads, **options)

    monkeypatch.setitem(KERNELS, kernel, spy)  # type: ignore[arg-type]
    layout = build_layout(tiny_batch(LENGTHS), torch.device("cpu"), inputs={}, kernel=kernel)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found, _ = packed_attention(
            SimpleNamespace(is_causal=True), q, k, v, None, scaling=1 / 3, **{LAYOUT: layout}
        )  # pyright: ignore
    tokens = sum(LENGTHS)
    assert given == [(4, tokens, 8), (1, tokens, 8), (1, tokens, 8)]
    wide = [x[0].expand(4, -1, -1).split(LENGTHS, 1) for x in (k, v)]
    expected = torch.cat(
        [_formula(qs, ks, vs, True, None) for qs, ks, vs in zip(q[0].split(LENGTHS, 1), *wide, strict=True)],
        1,
    )
    torch.testing.assert_close(found[0], expected.transpose(0, 1), rtol=1e-9, atol=1e-9)
    # Queries, outputs and their sums of exponentials; one head of keys and values, padded: never four of each.
    assert sum(kept.values()) < 4 * q.nbytes + 2 * 2 * k.nbytes
