"""LARS against the numbers of the paper's algorithm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bigbatch.optim.lars import Lars


def pair(weight: tuple[float, float] = (3.0, 4.0)) -> nn.Parameter:
    return nn.Parameter(torch.tensor(weight, dtype=torch.float64))


def test_two_published_steps() -> None:
    """w = (3, 4), g = (.6, .8), momentum .9, decay .1, lr 1: local .0033333, then two steps."""
    weight = pair()
    optimizer = Lars([weight], lr=1.0, momentum=0.9, weight_decay=0.1)
    for expected in ((2.9970, 3.9960), (2.9913, 3.9884)):
        weight.grad = torch.tensor([0.6, 0.8], dtype=torch.float64)
        optimizer.step()
        assert weight.tolist() == pytest.approx(expected, abs=5e-5)
    first = 1e-3 * 5 / (1 + 0.1 * 5)
    assert first == pytest.approx(0.0033333, abs=5e-8)


def test_local_rate_is_one_while_the_matrix_is_zero() -> None:
    parameter = pair((0.0, 0.0))
    parameter.grad = torch.tensor((0.6, 0.8), dtype=torch.float64)
    Lars([parameter], lr=0.5, weight_decay=0.0).step()
    assert parameter.tolist() == [-0.3, -0.4]


def test_a_gradient_of_zero_does_not_make_the_decay_stronger() -> None:
    """As for a gradient as long as the matrix: trust wd |w|, not wd |w|."""
    moved = []
    for gradient in ((0.0, 0.0), (-4.0, 3.0)):
        parameter = pair()
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        Lars([parameter], lr=1.0, momentum=0.0, weight_decay=0.01).step()
        moved.append(1 - float((parameter.detach() * torch.tensor([3.0, 4.0]).double()).sum()) / 25)
    assert moved[0] == pytest.approx(1e-3 * 0.01)
    assert moved[0] == pytest.approx(moved[1], rel=0.02)


def test_what_is_not_adapted_takes_plain_steps() -> None:
    parameter = pair()
    parameter.grad = torch.tensor([0.6, 0.8], dtype=torch.float64)
    Lars([{"params": [parameter], "adapt": False}], lr=0.5, weight_decay=0.0).step()
    assert parameter.tolist() == pytest.approx([2.7, 3.6], rel=1e-15)


def test_gradients_times_100_take_the_same_way() -> None:
    """Without decay the length of the gradient does not matter."""
    ends = []
    for factor in (1.0, 100.0):
        weight = pair()
        optimizer = Lars([weight], lr=1.0, weight_decay=0.0, eps=0.0)
        for step in range(5):
            weight.grad = factor * torch.tensor([0.6, 0.8 * step], dtype=torch.float64)
            optimizer.step()
        ends.append(weight.tolist())
    assert ends[0] == pytest.approx(ends[1], rel=1e-14)


def test_norms_of_whole_tensors_are_asked_for_once_a_step() -> None:
    """Two halves that sum their squares move like the whole."""
    generator = torch.Generator().manual_seed(1)
    whole = nn.Parameter(torch.randn(6, 4, generator=generator, dtype=torch.float64))
    halves = [nn.Parameter(part.detach().clone()) for part in whole.chunk(2)]
    calls = []

    def over_both(tensors: Any, of: Any = None) -> Tensor:
        calls.append(len(tensors))
        squares = torch.stack([tensor.square().sum() for tensor in tensors])
        weight, gradient = squares[:2].sum(), squares[2:].sum()
        return torch.stack([weight, weight, gradient, gradient])

    plain, sharded = Lars([whole], lr=3.0), Lars(halves, lr=3.0, sum_of_squares=over_both)
    for _ in range(3):
        whole.grad = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        for half, part in zip(halves, whole.grad.chunk(2), strict=True):
            half.grad = part
        plain.step()
        sharded.step()
    torch.testing.assert_close(
        torch.cat([half.detach() for half in halves]), whole.detach(), rtol=1e-14, atol=0
    )
    assert calls == [4, 4, 4]


def test_gradients_are_only_read_and_no_momentum_keeps_nothing() -> None:
    weight = pair()
    weight.grad = torch.tensor([0.6, 0.8], dtype=torch.float64)
    optimizer = Lars([weight], lr=1.0, momentum=0.0)
    optimizer.step()
    assert weight.grad.tolist() == [0.6, 0.8] and not optimizer.state
    assert weight.tolist() != [3.0, 4.0]


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"lr": 1.0, "trust": 0.0}, {"lr": 1.0, "momentum": 1.0}])
def test_impossible_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lars: lr"):
        Lars([pair()], **options)
