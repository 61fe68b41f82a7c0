"""Matrices that begin at zero leave it at the rate, not at a thousandth of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bigbatch.optim.from_zero import SHORT
from bigbatch.optim.lamb import Lamb
from bigbatch.optim.lars import Lars
from bigbatch.optim.state import load_optimizer_state, optimizer_state

LR = 1e-3
NAMES = {"names": ["matrix"]}


def built(name: str, parameter: nn.Parameter, **options: Any) -> torch.optim.Optimizer:
    kind: Any = {"lamb": Lamb, "lars": Lars}[name]
    return kind([{"params": [parameter], **NAMES}], lr=LR, weight_decay=0.01, **options)


def rms(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())


def gradient() -> Tensor:
    return torch.where(torch.arange(24).reshape(6, 4) % 2 == 0, 1.0, -1.0).double()


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_it_moves_at_the_rate_until_it_is_long_enough(name: str) -> None:
    parameter = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    optimizer = built(name, parameter, **({"momentum": 0.0} if name == "lars" else {}))
    lengths = [0.0]
    for _ in range(40):
        parameter.grad = gradient()
        optimizer.step()
        lengths.append(rms(parameter))
    assert lengths[1:11] == pytest.approx([LR * count for count in range(1, 11)], rel=1e-3)
    assert lengths[11] >= SHORT * 0.999 and lengths[40] < 1.2 * SHORT + LR


def test_whole_sizes_count_where_matrices_are_divided() -> None:
    """Two halves that know of the whole move as it does."""
    start = torch.zeros(6, 4, dtype=torch.float64)
    whole = nn.Parameter(start.clone())
    halves = [nn.Parameter(part.clone()) for part in start.chunk(2)]

    def over_both(tensors: Any, of: Any = None) -> Tensor:
        squares = torch.stack([tensor.square().sum() for tensor in tensors])
        return torch.stack([squares[:2].sum()] * 2 + [squares[2:].sum()] * 2)

    plain = Lamb([whole], lr=LR)
    divided = Lamb(halves, lr=LR, sum_of_squares=over_both, values_of=lambda part: 2 * part.numel())
    for _ in range(15):
        whole.grad = gradient()
        for half, part in zip(halves, gradient().chunk(2), strict=True):
            half.grad = part
        plain.step()
        divided.step()
    together = torch.cat([half.detach() for half in halves])
    torch.testing.assert_close(together, whole.detach(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_a_checkpoint_knows_that_it_began_at_zero(name: str) -> None:
    straight, parameter = (nn.Parameter(torch.zeros(6, 4, dtype=torch.float64)) for _ in range(2))
    first, again = built(name, straight), built(name, parameter)
    for step in range(12):
        straight.grad = gradient()
        first.step()
        if step == 3:
            parameter.data.copy_(straight.detach())
            state = {key: value.clone() for key, value in optimizer_state(first).items()}
            assert "from_zero/matrix" in state
            load_optimizer_state(again, state)
        if step > 3:
            parameter.grad = gradient()
            again.step()
    assert torch.equal(parameter, straight)


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_a_matrix_that_is_short_but_not_zero_is_adapted(name: str) -> None:
    parameter = nn.Parameter(torch.full((6, 4), 1e-4, dtype=torch.float64))
    optimizer = built(name, parameter)
    parameter.grad = gradient()
    optimizer.step()
    assert rms(parameter.detach() - 1e-4) <= 1.1 * LR * 1e-4
    assert not any(key.startswith("from_zero") for key in optimizer_state(optimizer))


def test_lamb_decays_a_matrix_without_gradient_at_the_rate_alone() -> None:
    """u is then wd w, and |w| / |u| would be 1 / wd."""
    parameter = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    before = rms(parameter)
    optimizer = built("lamb", parameter)
    parameter.grad = torch.zeros(6, 4)
    optimizer.step()
    assert 1 - rms(parameter) / before == pytest.approx(LR * 0.01, rel=0.02)
