"""Sharpness-aware gradients are those of the whole batch, however it is cut; moves of single micro-batches are not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from bigbatch.parallel.single import SingleWorld
from bigbatch.step.sam import SamExecutor
from tests.models import tiny
from tests.reference import textbook_sam
from tests.split import (
    SMALL,
    Trajectory,
    assert_equal,
    gradient_error,
    parts_of,
    rows_of,
    train_reference,
    train_split,
)
from tests.step.test_split import both_precisions

ROWS = rows_of("single", 200, seed=3, longest=40)
LOSS = {"class_weights": {"a": 0.3, "b": 2.0, "c": 1.0}}
UPDATES = 3
ASKED: dict[str, dict[str, Any]] = {
    "sam": {"rho": 0.05},
    "adaptive": {"rho": 0.5, "adaptive": True},
}


def module_of(dtype: torch.dtype, **config: Any) -> Any:
    return tiny("bert", num_labels=3, **{**SMALL, **config}).to(dtype)


def parts_with(module: Any, gradient: Any, *, micro_tokens: int = 512, packing: str = "packed", **keys: Any):
    keys = {"loss": LOSS, "gradient": gradient, **keys}
    return parts_of(module, ROWS, "single", micro_tokens=micro_tokens, packing=packing, **keys)


def trained(parts: Any, updates: int = UPDATES) -> Trajectory:
    """The gradients that move the weights: the second of each two that the world has summed."""
    found = train_split(parts, updates)
    return replace(found, gradients=found.gradients[1::2])


@pytest.mark.parametrize(("micro_tokens", "packing"), [(512, "packed"), (16384, "packed"), (512, "padded")])
@pytest.mark.parametrize("asked", ASKED)
@both_precisions
def test_every_split_equals_the_whole_batch(asked, micro_tokens, packing, dtype):
    module, options = module_of(dtype), ASKED[asked]
    parts = parts_with(module, {"name": "sam", **options}, micro_tokens=micro_tokens, packing=packing)
    expected = train_reference(
        module, parts, ROWS, "single", UPDATES, gradient=partial(textbook_sam, **options)
    )
    found = trained(parts)
    assert_equal(found, expected, dtype)
    assert (max(found.micro_batches) == 1) == (micro_tokens == 16384)


def test_it_is_another_gradient_than_the_plain_one():
    module = module_of(torch.float64)
    found = trained(parts_with(module, {"name": "sam"}), 1)
    plain = train_split(parts_with(module, "plain"), 1)
    assert found.losses == plain.losses
    assert gradient_error(found.gradients[0], plain.gradients[0]) > 1e-3


class MicroBatchSam(SamExecutor):
    """The usual way ("m-sharpness"): each micro-batch moves the weights by its own gradient."""

    def accumulate(self, update, micro_batches, denominators):
        sums, gradients = [], [torch.zeros_like(parameter) for parameter in self._parameters]
        for piece in micro_batches:
            sums.append(super().accumulate(update, [piece], denominators))
            for total, parameter in zip(gradients, self._parameters, strict=True):
                total += 0 if parameter.grad is None else parameter.grad
                parameter.grad = None
        for total, parameter in zip(gradients, self._parameters, strict=True):
            parameter.grad = total
        terms = {term: sum(each.terms[term] for each in sums) for term in sums[0].terms}
        return replace(sums[0], terms=terms)


def test_moves_of_single_micro_batches_fail():
    """And only because of that: with one micro-batch the same executor passes."""

    def by_pieces(micro_tokens: int):
        module = module_of(torch.float64)
        parts = parts_with(module, {"name": "sam"}, micro_tokens=micro_tokens)
        inner = parts.strategy.executor._executor  # type: ignore[attr-defined]
        wrong = MicroBatchSam(inner, parts.strategy.parameters, SingleWorld(), rho=0.05, adaptive=False)
        parts.strategy = replace(parts.strategy, executor=wrong)
        found = train_split(parts, 1)
        expected = train_reference(module, parts, ROWS, "single", 1, gradient=textbook_sam)
        return replace(found, gradients=found.gradients[-1:]), expected

    assert_equal(*by_pieces(16384), torch.float64)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(*by_pieces(512), torch.float64)
