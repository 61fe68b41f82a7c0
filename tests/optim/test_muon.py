"""Muon: what Newton-Schulz does to singular values, both scales, and AdamW for the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bigbatch.optim.muon import COEFFICIENTS, Muon, orthogonalised


def matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def moved(
    gradient: Tensor, weight: Tensor | None = None, lr: float = 1.0, steps: int = 1, **options: Any
) -> Tensor:
    """Where a matrix is after some steps with one gradient."""
    parameter = nn.Parameter(torch.zeros_like(gradient) if weight is None else weight.clone())
    group = {"params": [parameter], "orthogonal": True}
    optimizer = Muon([group], lr=lr, **{"weight_decay": 0.0, **options})
    for _ in range(steps):
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("rows, columns", [(6, 10), (10, 6), (8, 8)])
def test_singular_values_follow_the_polynomial(rows: int, columns: int) -> None:
    given = matrix(rows, columns)
    left, values, right = torch.linalg.svd(given, full_matrices=False)
    values = values / values.norm()
    a, b, c = COEFFICIENTS
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    found = orthogonalised(given[None])[0]
    torch.testing.assert_close(found, left @ values.diag() @ right, rtol=1e-9, atol=1e-9)
    assert values.min() > 0.6 and values.max() < 1.25


def test_a_stack_is_turned_one_by_one_and_zero_stays_zero() -> None:
    stack = torch.stack([matrix(4, 7), torch.zeros(4, 7, dtype=torch.float64), 100 * matrix(4, 7, seed=1)])
    found = orthogonalised(stack)
    assert torch.equal(found[1], stack[1])
    for one, alone in zip(found[[0, 2]], stack[[0, 2]], strict=True):
        torch.testing.assert_close(one, orthogonalised(alone[None])[0], rtol=1e-12, atol=1e-13)


def test_bf16_is_near_fp32_and_fp32_near_fp64() -> None:
    given = matrix(48, 96)
    exact = orthogonalised(given[None])

    def error(found: Tensor) -> float:
        return float((found.double() - exact).norm() / exact.norm())

    assert error(orthogonalised(given.float()[None])) < 1e-4
    assert 1e-4 < error(orthogonalised(given.float()[None], dtype=torch.bfloat16)) < 0.05


@pytest.mark.parametrize("rows, columns", [(48, 48), (96, 48), (48, 96)])
def test_keller_and_moonlight_have_one_direction_and_adamws_size(rows: int, columns: int) -> None:
    """Cosine 1 with Keller's direction; root mean square .17 to .18 after Moonlight's scale."""
    given = matrix(rows, columns)
    moonlight, keller = moved(given), moved(given, scale="keller")
    cosine = (moonlight * keller).sum() / (moonlight.norm() * keller.norm())
    assert cosine == pytest.approx(1.0, abs=1e-12)
    assert (moonlight.norm() / keller.norm()).item() == pytest.approx(
        0.2 * max(rows, columns) ** 0.5 / max(1, rows / columns) ** 0.5, rel=1e-12
    )
    size = moonlight.square().mean().sqrt().item()
    assert 0.16 < size < 0.2


def test_moonlights_size_on_a_wide_matrix() -> None:
    size = moved(matrix(128, 512)).square().mean().sqrt().item()
    assert 0.17 <= size <= 0.18


def test_momentum_looks_ahead() -> None:
    """Two steps by hand."""
    first, second, weight = matrix(4, 6), matrix(4, 6, seed=1), matrix(4, 6, seed=2)
    parameter = nn.Parameter(weight.clone())
    optimizer = Muon([{"params": [parameter], "orthogonal": True}], lr=0.1, momentum=0.9, weight_decay=0.5)
    expected, buffer = weight.clone(), torch.zeros_like(weight)
    for gradient in (first, second):
        parameter.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(parameter.grad, gradient)
        buffer = 0.9 * buffer + gradient
        turned = orthogonalised((gradient + 0.9 * buffer)[None])[0]
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 6**0.5 * turned
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-10, atol=1e-12)


def test_torchs_muon_goes_the_same_way() -> None:
    """torch's computes in bf16."""
    given = matrix(32, 64).float()
    ours = moved(given, weight=torch.ones(32, 64), lr=0.1, steps=3, newton_schulz="bf16", weight_decay=0.1)
    parameter = nn.Parameter(torch.ones(32, 64))
    theirs = torch.optim.Muon(
        [parameter], lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        parameter.grad = given.clone()
        theirs.step()
    way, wanted = ours - 1, parameter.detach() - 1
    assert ((way - wanted).norm() / wanted.norm()).item() < 0.02


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_the_rest_is_adamw(dtype: torch.dtype, tolerance: float) -> None:
    own, other = (nn.Parameter(matrix(5, 4).to(dtype)) for _ in range(2))
    ours = Muon([own], lr=0.01, betas=(0.8, 0.98), eps=1e-7, weight_decay=0.1)
    theirs = torch.optim.AdamW([other], lr=0.01, betas=(0.8, 0.98), eps=1e-7, weight_decay=0.1)
    for step in range(6):
        for parameter in (own, other):
            parameter.grad = matrix(5, 4, seed=step).to(dtype)
        ours.step()
        theirs.step()
    torch.testing.assert_close(own.detach(), other.detach(), rtol=tolerance, atol=tolerance)


def test_a_part_of_a_matrix_is_not_enough() -> None:
    """Why Muon asks the world for whole matrices: halves that are turned alone are far off."""
    given = matrix(32, 32)
    whole = orthogonalised(given[None])[0]
    halves = torch.cat([orthogonalised(half[None])[0] for half in given.chunk(2)])
    assert ((halves - whole).norm() / whole.norm()).item() > 0.3


def test_divided_matrices_are_put_together() -> None:
    """Two worlds that hold a half each, and know the other's: as on one process."""
    given = matrix(6, 8)
    halves = [part.clone() for part in given.chunk(2)]

    class Half:
        def __init__(self, number: int) -> None:
            self.number = number

        def gathered_like(self, part: Tensor, parameter: Tensor) -> Tensor:
            # The first step's u is 1.9 g on both.
            return torch.cat([part, 1.95 * halves[1]] if self.number == 0 else [1.95 * halves[0], part])

        def part_of(self, whole: Tensor, parameter: Tensor) -> Tensor:
            return whole.chunk(2)[self.number]

    found = torch.cat([moved(half, whole=Half(number)) for number, half in enumerate(halves)])
    torch.testing.assert_close(found, moved(given), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"momentum": 1.0}, {"scale": "kellar"}, {"newton_schulz": "fp8"}, {"steps": 0}]
)
def test_impossible_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="muon: "):
        Muon([nn.Parameter(torch.ones(1))], **{"lr": 1.0, **options})
