"""Quick dropout: the right share, the right scale, masks by seed, gradients by the same mask."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigbatch.graph.dropout import QuickDropout, quick_dropout
from bigbatch.model.chunked import keep_factors


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_scale_and_independence(p: float) -> None:
    torch.manual_seed(0)
    values = 400_003
    factors = keep_factors(torch.Size([values]), p, torch.empty(values))
    kept = factors != 0
    share = float(kept.double().mean())
    assert abs(share - (1 - p)) < 5 * (p * (1 - p) / values) ** 0.5
    assert factors[kept].unique().tolist() == pytest.approx([1 / (1 - round(p * 65536) / 65536)])
    assert float(factors.double().mean()) == pytest.approx(1, abs=5 * (p / (1 - p) / values) ** 0.5)
    # Four masks come from one draw: neighbours must not know of each other.
    signs = kept.double() - share
    for lag in (1, 2, 3, 4, 5, 8, 64):
        correlation = float((signs[:-lag] * signs[lag:]).mean()) / (share * (1 - share))
        assert abs(correlation) < 5 / values**0.5, lag


def test_everything_or_nothing() -> None:
    assert keep_factors(torch.Size([5]), 1.0, torch.empty(5)).tolist() == [0.0] * 5
    assert keep_factors(torch.Size([5]), 0.0, torch.empty(5)).tolist() == [1.0] * 5


def test_masks_follow_the_seed_and_the_gradient_follows_the_mask() -> None:
    layer = QuickDropout(0.5).train()
    inputs = torch.randn(7, 33, dtype=torch.float64, requires_grad=True)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        inputs.grad = None
        outputs = layer(inputs)
        outputs.sum().backward()
        assert inputs.grad is not None
        factors = torch.where(inputs == 0, 0, outputs / inputs).detach()
        assert torch.allclose(inputs.grad, factors)
        found.append(outputs.detach())
    assert torch.equal(*found)
    assert not torch.equal(layer(inputs), found[0])
    assert torch.equal(layer.eval()(inputs), inputs)


def test_exchanged_and_put_back() -> None:
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.0), nn.AlphaDropout(0.1), nn.Linear(2, 2))
    first = model[0]
    undo = quick_dropout(model)
    assert [type(part).__name__ for part in model] == ["QuickDropout", "Dropout", "AlphaDropout", "Linear"]
    assert model[0] is first
    undo()
    assert type(model[0]) is nn.Dropout
