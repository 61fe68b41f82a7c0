"""Sharpness-aware gradients are those of the whole batch, however it is cut; moves of single micro-batches are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bigbatch.build.coupling import check_coupling
from bigbatch.errors import RecipeError
from bigbatch.parallel.agree import OutOfMemory
from bigbatch.parallel.single import SingleWorld
from bigbatch.recipe.load import load_recipe
from bigbatch.step.again import Again
from bigbatch.step.sam import SamExecutor
from bigbatch.tasks.classify import Classify
from bigbatch.tasks.match import Match
from tests.split import assert_equal, gradient_error, train_split
from tests.step.gradient_jobs import module_of, oracle, parts_with, trained
from tests.step.test_split import both_precisions

UPDATES = 3
ASKED: dict[str, dict[str, Any]] = {
    "sam": {"name": "sam", "rho": 0.05},
    "adaptive": {"name": "sam", "rho": 0.5, "adaptive": True},
}
EQUALITY, BITS = "tests.step.gradient_jobs:equality", "tests.step.gradient_jobs:bits"


@pytest.mark.parametrize(("micro_tokens", "packing"), [(512, "packed"), (16384, "packed"), (512, "padded")])
@pytest.mark.parametrize("asked", ASKED)
@both_precisions
def test_every_split_equals_the_whole_batch(asked, micro_tokens, packing, dtype):
    module, gradient = module_of(dtype), ASKED[asked]
    parts = parts_with(module, gradient, micro_tokens=micro_tokens, packing=packing)
    found = trained(parts, UPDATES)
    assert_equal(found, oracle(module, parts, gradient, UPDATES), dtype)
    assert (max(found.micro_batches) == 1) == (micro_tokens == 16384)


@pytest.mark.world_size(2)
@pytest.mark.parametrize(
    ("keys", "dtype"),
    [({}, "fp64"), ({}, "fp32"), ({"plan": {"mesh": {"shard": 2}}}, "fp64"), ({"plan": {"mesh": {"tensor": 2}}}, "fp64")],
    ids=str,
)  # fmt: skip
def test_ranks_equal_the_whole_batch(ranks, tmp_path, keys, dtype):
    found = ranks.run(EQUALITY, 2, tmp_path, gradient=ASKED["adaptive"], dtype=dtype, **keys)
    assert found[0]["error"] <= found[0]["bound"]


@pytest.mark.world_size(2)
def test_the_same_bits_on_any_number_of_ranks(ranks, tmp_path):
    one, two = (ranks.run(BITS, size, tmp_path, gradient=ASKED["sam"]) for size in (1, 2))
    assert one[0] == two[0] == two[1]


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
        parts = parts_with(module, ASKED["sam"], micro_tokens=micro_tokens)
        inner = parts.strategy.executor._executor  # type: ignore[attr-defined]
        wrong = MicroBatchSam(inner, parts.strategy.parameters, SingleWorld(), rho=0.05, adaptive=False)
        parts.strategy = replace(parts.strategy, executor=wrong)
        found = train_split(parts, 1)
        return replace(found, gradients=found.gradients[-1:]), oracle(module, parts, ASKED["sam"], 1)

    assert_equal(*by_pieces(16384), torch.float64)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(*by_pieces(512), torch.float64)


def test_both_walks_draw_the_same_dropout_masks():
    """A move of no length: the second walk's gradient is the first's, whatever was dropped."""
    module = module_of(torch.float64, hidden_dropout_prob=0.3)
    parts = parts_with(module, {"name": "sam", "rho": 1e-300})
    first, second = train_split(parts, 1).gradients
    assert all(torch.equal(second[name], gradient) for name, gradient in first.items())


@pytest.mark.parametrize("failing", [1, 3, 5])
def test_whoever_leaves_in_either_walk_leaves_the_weights_to_the_bit(failing):
    """A signal is heard in the second walk, too."""
    parts = parts_with(module_of(torch.float32), ASKED["sam"], micro_tokens=1024)
    before = [parameter.clone() for parameter in parts.strategy.parameters]
    batch, seen = parts.batches.at(0, 1), 0

    def look() -> None:
        nonlocal seen
        seen += 1
        if seen == failing:
            raise OutOfMemory("no room")

    pieces = Again(parts.strategy.pieces(batch, parts.cut), before_each=look)
    count = len(list(parts.strategy.pieces(batch, parts.cut)))
    assert count < 5 <= 2 * count
    denominators = parts.task.denominators(batch.targets)
    with pytest.raises(OutOfMemory):
        parts.strategy.executor.accumulate(1, pieces, denominators)
    assert seen == failing
    assert all(map(torch.equal, parts.strategy.parameters, before))


def test_a_gradient_that_is_not_finite_moves_nothing_and_is_told():
    parts = parts_with(module_of(torch.float32), ASKED["sam"])
    with torch.no_grad():
        parts.module.classifier.weight[0, 0] = float("nan")
    before = [parameter.clone() for parameter in parts.strategy.parameters]
    found = train_split(parts, 1)
    assert found.norms[0] != found.norms[0]
    for parameter, kept in zip(parts.strategy.parameters, before, strict=True):
        assert torch.equal(parameter.nan_to_num(), kept.nan_to_num())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["gradient=sam", "task=match"], "gradient: sam is planned"),
        (["gradient=fgm", "task=match"], "gradient: fgm is planned"),
        (["gradient=sam", "sync={replicas: 2, period: 4}"], "sync.replicas: replicas that train apart"),
        (
            ["gradient=sam", "optimizer.state=bf16_sr"],
            "optimizer.state: gradient: sam moves the weights by 0.05",
        ),
        (["gradient=fgm", "plan.compile=whole"], "plan.compile: gradient: fgm"),
    ],
)
def test_what_cannot_be_combined_is_refused(keys, words):
    recipe = load_recipe({"model": "m", "data": {"train": "a.csv"}, "batch": 8, "updates": 1}, keys)
    with pytest.raises(RecipeError, match=words):
        check_coupling(recipe, Match() if recipe.task.name == "match" else Classify(), SingleWorld())
