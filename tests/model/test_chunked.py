"""Chunked attention equals the formula, forward and backward, with the masks that it drew."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bigbatch.model import chunked
from bigbatch.model.chunked import chunked_attention

S, H, Q, K, W = 3, 4, 6, 9, 8


def inputs(queries: int = Q, keys: int = K) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((S, H, queries, W), (S, H, keys, W), (S, H, keys, W))
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


def masks() -> dict[str, Tensor | None]:
    real = torch.arange(K)[None, None, None] < torch.tensor([9, 5, 7])[:, None, None, None]
    band = (torch.arange(Q)[:, None] - torch.arange(K)[None]).abs() < 3
    return {"none": None, "keys": real, "band": band, "both": (band & real) | (torch.arange(K) == 0)}


def formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, factors: Tensor, scale: float) -> Tensor:
    scores = q @ k.transpose(2, 3) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return (scores.softmax(-1) * factors) @ v


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The factors that were drawn, in order."""
    found: list[Tensor] = []
    right = chunked.keep_factors

    def listening(*args: object, **kwargs: object) -> Tensor:
        factors = right(*args, **kwargs)  # type: ignore[arg-type]
        found.append(factors.clone())
        return factors

    monkeypatch.setattr(chunked, "keep_factors", listening)
    return found


@pytest.mark.parametrize("piece_bytes", [1, 8 * Q * K * 5, 2**20])
@pytest.mark.parametrize("name", ["none", "keys", "band", "both"])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_the_formula(
    piece_bytes: int, name: str, scaling: float | None, drawn: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "_PIECE_BYTES", piece_bytes)
    mask = masks()[name]
    ours = inputs()
    found = chunked_attention(*ours, mask, False, 0.3, scaling)
    factors = torch.cat(drawn).unflatten(0, (S, H))
    assert (len(drawn) == 1) == (piece_bytes == 2**20) and 0 < float((factors == 0).double().mean()) < 0.6
    theirs = inputs()
    expected = formula(*theirs, mask, factors, scaling or W**-0.5)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12)


def test_causal(drawn: list[Tensor]) -> None:
    found = chunked_attention(*inputs(K, K), None, True, 0.3, None)
    mask = torch.ones(K, K, dtype=torch.bool).tril()
    expected = formula(*inputs(K, K), mask, torch.cat(drawn).unflatten(0, (S, H)), W**-0.5)
    assert torch.allclose(found, expected, rtol=1e-10)


def test_without_dropout_it_is_torchs_own() -> None:
    expected = torch.nn.functional.scaled_dot_product_attention(*inputs(), attn_mask=masks()["keys"])
    assert torch.equal(chunked_attention(*inputs(), masks()["keys"], False, 0.0, None), expected)


def test_the_seed_decides_the_masks() -> None:
    found, given = [], [item.detach() for item in inputs()]
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(chunked_attention(*given, None, False, 0.5, None))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
