"""LAMB against steps worked out by hand and a loop written from the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bigbatch.optim.lamb import Lamb


def one_step(
    weight: Sequence[float], gradient: Sequence[float], adapt: bool = True, **options: Any
) -> list[float]:
    parameter = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
    parameter.grad = torch.tensor(gradient, dtype=torch.float64)
    Lamb([{"params": [parameter], "adapt": adapt}], lr=0.01, **options).step()
    return parameter.tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"weight_decay": 0.1}, (2.9546, 4.0210)),
        ({"weight_decay": 0.0, "adapt": False}, (2.99, 4.01)),
        ({"weight_decay": 0.0}, (2.9646, 4.0354)),
        ({"weight_decay": 0.1, "debias": False}, (2.9609, 4.0312)),
    ],
)
def test_published_steps(options: dict[str, Any], expected: tuple[float, float]) -> None:
    assert one_step((3, 4), (1, -1), eps=0.0, **options) == pytest.approx(expected, abs=5e-5)


def test_ratio_by_hand() -> None:
    u = (1 + 0.1 * 3, -1 + 0.1 * 4)
    ratio = 5 / math.hypot(*u)
    assert ratio == pytest.approx(3.4922, abs=5e-5)
    moved = one_step((3, 4), (1, -1), eps=0.0, weight_decay=0.1)
    assert moved == pytest.approx((3 - 0.01 * ratio * u[0], 4 - 0.01 * ratio * u[1]), rel=1e-12)


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_ratio_is_one_when_a_norm_is_zero(eps: float) -> None:
    assert one_step((0, 0), (1, -1), eps=eps, weight_decay=0.1) == pytest.approx((-0.01, 0.01), rel=1e-5)
    assert one_step((3, 4), (0, 0), eps=eps, weight_decay=0.0) == [3, 4]
    assert one_step((0, 0), (0, 0), eps=eps, weight_decay=0.1) == [0, 0]


def run(scale: float, steps: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    weight = nn.Parameter(torch.randn(4, 3, generator=generator, dtype=torch.float64))
    optimizer = Lamb([weight], lr=0.05, eps=0.0)
    for _ in range(steps):
        weight.grad = scale * torch.randn(4, 3, generator=generator, dtype=torch.float64)
        optimizer.step()
    return weight.detach()


def test_gradients_times_100_take_the_same_way() -> None:
    torch.testing.assert_close(run(1.0), run(100.0), rtol=1e-12, atol=0)


def reference(
    parameters: list[Tensor], gradients: list[list[Tensor]], adapt: list[bool], decay: list[float]
) -> None:
    """The paper's loop, one tensor and one number at a time."""
    b1, b2, eps, lr = 0.9, 0.999, 1e-6, 0.02
    means = [torch.zeros_like(p) for p in parameters]
    squares = [torch.zeros_like(p) for p in parameters]
    for t, now in enumerate(gradients, start=1):
        for i, (w, g) in enumerate(zip(parameters, now, strict=True)):
            means[i] = b1 * means[i] + (1 - b1) * g
            squares[i] = b2 * squares[i] + (1 - b2) * g * g
            u = (means[i] / (1 - b1**t)) / ((squares[i] / (1 - b2**t)).sqrt() + eps) + decay[i] * w
            ratio = float(w.norm() / u.norm()) if adapt[i] and w.norm() > 0 and u.norm() > 0 else 1.0
            w -= lr * ratio * u


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_twenty_steps_equal_the_loop(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 4), (4,), (3, 2, 2)]
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    gradients = [
        [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(20)
    ]
    expected = [tensor.clone() for tensor in start]
    reference(expected, gradients, [True, False, True], [0.01, 0.0, 0.01])
    parameters = [nn.Parameter(tensor.to(dtype)) for tensor in start]
    optimizer = Lamb(
        [
            {"params": [parameters[0], parameters[2]], "weight_decay": 0.01},
            {"params": [parameters[1]], "weight_decay": 0.0, "adapt": False},
        ],
        lr=0.02,
    )
    for now in gradients:
        for parameter, gradient in zip(parameters, now, strict=True):
            parameter.grad = gradient.to(dtype)
        optimizer.step()
    for parameter, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), wanted, rtol=tolerance, atol=tolerance)


def test_gradients_are_only_read() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    weight.grad = torch.tensor([1.0, -1.0])
    gradient = weight.grad
    Lamb([weight], lr=0.01, weight_decay=0.1).step()
    assert weight.grad is gradient and gradient.tolist() == [1.0, -1.0]


def test_a_parameter_without_gradient_keeps_its_value_and_has_no_state() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lamb([used, unused], lr=0.1)
    optimizer.step()
    assert not optimizer.state
    used.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(unused.detach(), torch.ones(2, 2)) and unused not in optimizer.state
    assert not torch.equal(used.detach(), torch.ones(2, 2))


def test_a_late_parameter_is_debiased_by_its_own_steps() -> None:
    early, late = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = Lamb([early, late], lr=0.01, eps=0.0, weight_decay=0.1)
    early.grad = torch.tensor([1.0, -1.0])
    optimizer.step()
    late.grad = torch.tensor([1.0, -1.0])
    optimizer.step()
    assert late.tolist() == pytest.approx((2.9546, 4.0210), abs=5e-5)


def test_sharded_weights_need_only_sums_of_squares() -> None:
    """Two halves that sum their squares move like the whole; one collective a step, over all groups."""
    generator = torch.Generator().manual_seed(1)
    whole = nn.Parameter(torch.randn(6, 4, generator=generator))
    halves = [nn.Parameter(part.detach().clone()) for part in whole.chunk(2)]
    calls: list[int] = []

    def over_both_halves(tensors: Sequence[Tensor], of: Sequence[Tensor] | None = None) -> Tensor:
        calls.append(len(tensors))
        assert of is not None and all(one is own for one, own in zip(of, [*halves, *halves], strict=True))
        squares = torch.stack([tensor.square().sum() for tensor in tensors])
        weight, direction = squares[0] + squares[1], squares[2] + squares[3]
        return torch.stack([weight, weight, direction, direction])

    plain = Lamb([whole], lr=0.1)
    sharded = Lamb(halves, lr=0.1, sum_of_squares=over_both_halves)
    for _ in range(3):
        whole.grad = torch.randn(6, 4, generator=generator)
        for half, part in zip(halves, whole.grad.chunk(2), strict=True):
            half.grad = part
        plain.step()
        sharded.step()
    torch.testing.assert_close(
        torch.cat([half.detach() for half in halves]), whole.detach(), rtol=1e-6, atol=1e-6
    )
    assert calls == [4, 4, 4]


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"lr": 1.0, "eps": -1.0}, {"lr": 1.0, "betas": (1.0, 0.9)}]
)
def test_impossible_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lamb: lr"):
        Lamb([nn.Parameter(torch.ones(1))], **options)
