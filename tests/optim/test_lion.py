"""Lion against the paper's loop, one number at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bigbatch.optim.lion import Lion


def test_ten_steps_equal_the_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, generator=generator, dtype=torch.float64).tolist()
    gradients = torch.randn(10, 4, generator=generator, dtype=torch.float64)
    weights, means = list(start), [0.0] * 4
    for row in gradients.tolist():
        for i, g in enumerate(row):
            u = math.copysign(1.0, 0.9 * means[i] + 0.1 * g)
            weights[i] -= 0.05 * (u + 0.3 * weights[i])
            means[i] = 0.99 * means[i] + 0.01 * g
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = Lion([parameter], lr=0.05, weight_decay=0.3)
    for row in gradients:
        parameter.grad = row.clone()
        optimizer.step()
        assert torch.equal(parameter.grad, row)
    assert parameter.tolist() == pytest.approx(weights, rel=1e-13)


def test_where_nothing_pulls_nothing_moves() -> None:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    parameter.grad = torch.tensor([0.0, 5.0])
    Lion([parameter], lr=0.5, weight_decay=0.0).step()
    assert parameter.tolist() == [1.0, 1.5]


def test_impossible_options() -> None:
    with pytest.raises(ValueError, match="lion: lr"):
        Lion([nn.Parameter(torch.ones(1))], lr=1.0, betas=(0.9, 1.0))
