"""Attention by pattern against the formula over a mask that is written pair by pair, forward and backward."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from bigbatch.model import sparse
from bigbatch.model.patterns import Pattern
from bigbatch.model.sparse import sparse_attention

PATTERNS = {
    "local": Pattern(window=4),
    "alone": Pattern(window=1),
    "wide": Pattern(window=70),
    "global": Pattern(window=5, first=2),
    "strided": Pattern(window=3, stride=5),
    "strided, global": Pattern(window=9, stride=4, first=1),
    "fixed": Pattern(block=6, summary=2),
    "fixed, all of it": Pattern(block=6, summary=6, first=3),
}
S, H, W = 3, 2, 4


def sees(pattern: Pattern, q: int, k: int) -> bool:
    """The table of `recipe.attention`, once more."""
    if q < pattern.first or k < pattern.first:
        return True
    if pattern.block:
        return (
            q // pattern.block == k // pattern.block or k % pattern.block + pattern.summary >= pattern.block
        )
    return abs(q - k) < pattern.window or (pattern.stride > 0 and (q - k) % pattern.stride == 0)


def mask_of(pattern: Pattern, n: int, causal: bool) -> Tensor:
    return torch.tensor(
        [[sees(pattern, q, k) and (k <= q or not causal) for k in range(n)] for q in range(n)]
    )


def formula(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> Tensor:
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~seen, -1e30)
    return scores.softmax(-1) * seen.any(-1, keepdim=True) @ v


def inputs(n: int, dtype: torch.dtype, key_heads: int = H) -> list[Tensor]:
    torch.manual_seed(n)
    shapes = ((S, H, n, W), (S, key_heads, n, W), (S, key_heads, n, W))
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("causal", [True, False])
def test_the_formula(name: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = PATTERNS[name]
    for n, dtype, piece in product((1, 7, 37), (torch.float64, torch.float32), (2**20, 700)):
        monkeypatch.setattr(sparse, "_PIECE_BYTES", piece)
        real = (
            torch.arange(n) < torch.tensor([n, max(1, n - 3), max(1, n // 2)])[:, None] if n == 37 else None
        )
        ours, theirs = inputs(n, dtype), inputs(n, dtype)
        found = sparse_attention(*ours, real, causal, 0.0, None, pattern)
        seen = mask_of(pattern, n, causal)[None, None]
        seen = seen if real is None else seen & real[:, None, None]
        expected = formula(*theirs, seen, W**-0.5)
        weights = torch.randn_like(found)
        (found * weights).sum().backward()
        (expected * weights).sum().backward()
        tolerance = 1e-10 if dtype is torch.float64 else 1e-5
        for a, b in zip((found, *(x.grad for x in ours)), (expected, *(x.grad for x in theirs)), strict=True):
            assert a is not None and b is not None
            assert float((a - b).detach().norm()) <= tolerance * float(b.detach().norm()), (n, dtype)


def test_dropped_weights_are_those_of_the_gradient() -> None:
    """The result is linear in the values, so what multiplies them can be read off; the seed decides which are 0."""
    pattern, n = PATTERNS["strided, global"], 13
    q, k, _ = inputs(n, torch.float64)
    v = torch.eye(n, dtype=torch.float64).expand(S, H, n, n)

    def dropped(*given: Tensor, seed: int = 3) -> Tensor:
        torch.manual_seed(seed)
        return sparse_attention(*given, None, False, 0.3, None, pattern)  # type: ignore[arg-type]

    whole = formula(q, k, v, mask_of(pattern, n, False)[None, None], W**-0.5)
    kept = (dropped(q, k, v) / whole)[whole > 0]
    assert torch.allclose(kept, (kept > 0).double() / (1 - round(0.3 * 2**16) / 2**16))
    assert 0.2 < float((kept == 0).double().mean()) < 0.4
    assert not torch.equal(dropped(q, k, v), dropped(q, k, v, seed=4))
    few = [x[:1, :1, :7].detach().requires_grad_() for x in inputs(n, torch.float64)]
    assert torch.autograd.gradcheck(dropped, few)


def test_shared_key_heads() -> None:
    q, k, v = inputs(9, torch.float64, key_heads=1)
    found = sparse_attention(q, k, v, None, True, 0.0, 0.7, PATTERNS["local"])
    seen = mask_of(PATTERNS["local"], 9, True)[None, None]
    assert torch.allclose(found, formula(q, k, v, seen, 0.7), rtol=1e-10)


@pytest.mark.parametrize("name", PATTERNS)
def test_no_pair_is_computed_twice_and_most_unseen_ones_never(name: str) -> None:
    """Of 512 tokens with windows of 16: work grows with the seen pairs."""
    from torch.utils.flop_counter import FlopCounterMode

    pattern = Pattern(window=16) if name == "local" else PATTERNS[name]
    n = 512 if name == "local" else 60
    for causal in (True, False):
        parts = sparse._parts(pattern, n, causal, torch.device("cpu"))
        if n == 60:
            seen = torch.zeros(n + 70, n + 70, dtype=torch.int64)
            for part in parts:
                at = torch.arange(part.places)[None, :, None]
                q, k = part.queries(at)[0, ..., 0], part.keys(at + 1)[0, ..., 0] - 1  # -1: padding in front
                pairs = (~part.hidden(0, part.tiles)).expand(part.tiles, -1, -1) & (k >= 0)[:, None]
                tile, one, other = pairs.nonzero(as_tuple=True)
                seen.index_put_((q[tile, one], k[tile, other]), torch.ones(()).long(), accumulate=True)
            assert torch.equal(seen[:n, :n], mask_of(pattern, n, causal).long())
            continue
        given = [x[:1].repeat(1, 1, 1, 1) for x in inputs(n, torch.float32)]
        with FlopCounterMode(display=False) as counter:
            sparse_attention(*given, None, causal, 0.0, None, pattern)  # type: ignore[arg-type]
        dense = 4 * H * n * n * W
        assert counter.get_total_flops() < dense * (0.08 if causal else 0.12)


@pytest.mark.parametrize("name", [*PATTERNS, "fixed, no summary"])
def test_the_seen_pairs_are_counted_one_by_one(name: str) -> None:
    pattern = Pattern(block=5) if name == "fixed, no summary" else PATTERNS[name]
    for n, causal in product((1, 2, 5, 6, 7, 36, 41), (True, False)):
        assert pattern.pairs(n, causal) == int(mask_of(pattern, n, causal).sum()), (n, causal)
