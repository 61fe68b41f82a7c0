"""Gradients of embeddings added row by row equal torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigbatch.graph import embeddings
from bigbatch.graph.embeddings import rows_in_place


@pytest.fixture(autouse=True)
def small_tables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "FEWEST_ROWS", 10)


class Tied(nn.Module):
    """An embedding whose weight is the output layer's, too, and one that is too small."""

    def __init__(self, tie: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 8, padding_idx=0, dtype=torch.float64)
        self.places = nn.Embedding(5, 8, dtype=torch.float64)
        self.out = nn.Linear(8, 50, bias=False, dtype=torch.float64)
        if tie:
            self.out.weight = self.words.weight

    def forward(self, ids_T: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.words(ids_T) + self.places(ids_T % 5)))


def gradients(model: Tied, rows: bool, passes: int = 3) -> list[torch.Tensor]:
    weights, undo = rows_in_place(model) if rows else ([], lambda: None)
    model.zero_grad()
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    buffers = [weight.grad for weight in weights]
    generator = torch.Generator().manual_seed(0)
    for _ in range(passes):
        ids_T = torch.randint(0, 20, (30,), generator=generator)
        model(ids_T).square().sum().backward()
    undo()
    assert [weight.grad is buffer for weight, buffer in zip(weights, buffers, strict=True)] == [True] * len(
        buffers
    )
    found = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.is_sparse for gradient in found)
    return [gradient.clone() for gradient in found]  # type: ignore[union-attr]


@pytest.mark.parametrize("tie", [False, True])
def test_the_same_gradient_in_the_same_buffer(tie: bool) -> None:
    torch.manual_seed(0)
    model = Tied(tie)
    expected, found = gradients(model, rows=False), gradients(model, rows=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
    assert not model.words.sparse


def test_small_frozen_and_unusual_tables_are_left_alone() -> None:
    tables = nn.ModuleList(
        [
            nn.Embedding(50, 4),
            nn.Embedding(9, 4),
            nn.Embedding(50, 4).requires_grad_(False),
            nn.Embedding(50, 4, max_norm=1.0),
            nn.Embedding(50, 4, scale_grad_by_freq=True),
            nn.Embedding(50, 4, sparse=True),
        ]
    )
    weights, undo = rows_in_place(tables)
    assert [weight is tables[0].weight for weight in weights] == [True]
    undo()
    assert [table.sparse for table in tables] == [False] * 5 + [True]
