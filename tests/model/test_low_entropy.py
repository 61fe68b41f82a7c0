"""Cross-entropy with a product in 16 bits: losses and sums in fp32, gradients as good as autocast's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bigbatch.model.low_entropy import low_entropy
from bigbatch.tasks.losses import IGNORED

UNITS, VOCABULARY, WIDTH = 67, 300, 32


def factors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(UNITS, WIDTH, generator=generator)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator) * 0.3
    return [
        tensor.requires_grad_() for tensor in (hidden, weight, torch.randn(VOCABULARY, generator=generator))
    ]


def targets() -> Tensor:
    values = torch.randint(0, VOCABULARY, (UNITS,), generator=torch.Generator().manual_seed(1))
    values[::9] = IGNORED
    return values


def truth(given: list[Tensor], above: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Losses and gradients in fp64."""
    hidden, weight, bias = (tensor.detach().double().requires_grad_() for tensor in given)
    losses = functional.cross_entropy(
        functional.linear(hidden, weight, bias), targets(), reduction="none", ignore_index=IGNORED
    )
    return losses, list(torch.autograd.grad((losses * above).sum(), (hidden, weight, bias)))


def autocast(given: list[Tensor], above: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Gradients of a whole layer under autocast, loss in fp32."""
    with torch.autocast("cpu", dtype):
        logits = functional.linear(*given)
    losses = functional.cross_entropy(logits.float(), targets(), reduction="none", ignore_index=IGNORED)
    return list(torch.autograd.grad((losses * above).sum(), given))


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected.detach()).norm() / expected.detach().norm())


@pytest.mark.parametrize("rows", [8, 1000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("summed", [True, False])
def test_no_worse_than_autocast(summed: bool, dtype: torch.dtype, rows: int) -> None:
    given = factors()
    above = torch.full((UNITS,), 0.25) if summed else torch.linspace(0.5, 2, UNITS)
    losses, expected = truth(given, above)
    found = low_entropy(*given, targets(), dtype=dtype, rows=rows, summed=summed)
    assert found.dtype == torch.float32 and found.shape == (() if summed else (UNITS,))
    whole = found * 0.25 if summed else (found * above).sum()
    assert error(whole, (losses * above).sum()) < 1e-3
    gradients = torch.autograd.grad(whole, given)
    plain = autocast(given, above, dtype)
    for ours, theirs, right in zip(gradients, plain, expected, strict=True):
        assert ours.dtype == torch.float32
        assert error(ours, right) <= 1.5 * error(theirs, right)


def test_sums_over_many_units_do_not_lose_digits() -> None:
    """In bf16 a sum of 2,000 losses of about 5 would be off by up to 32."""
    hidden, weight, bias = factors()
    many = hidden.detach().repeat(30, 1)
    values = targets().repeat(30)
    found = low_entropy(many, weight, bias, values, dtype=torch.bfloat16, rows=16, summed=True)
    each = low_entropy(many, weight, bias, values, dtype=torch.bfloat16, rows=16, summed=False)
    assert found.item() == pytest.approx(each.double().sum().item(), rel=1e-6)


def test_ignored_units_give_nothing() -> None:
    given = factors()
    nobody = torch.full((UNITS,), IGNORED)
    for summed in (True, False):
        found = low_entropy(*given, nobody, dtype=torch.bfloat16, rows=8, summed=summed)
        assert not found.any()
        assert not any(gradient.any() for gradient in torch.autograd.grad(found.sum(), given))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_what_needs_no_gradient_gets_none(missing: int) -> None:
    given: list[Any] = factors()
    given[missing] = None if missing == 2 else given[missing].detach()
    found = low_entropy(*given, targets(), dtype=torch.bfloat16, rows=8, summed=True)
    wanted = [tensor for index, tensor in enumerate(given) if index != missing]
    assert all(gradient.any() for gradient in torch.autograd.grad(found, wanted))
    with torch.no_grad():
        assert not low_entropy(*given, targets(), dtype=torch.bfloat16, rows=8, summed=True).requires_grad
