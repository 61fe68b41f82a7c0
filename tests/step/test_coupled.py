"""A loss of the whole batch is exact however the batch is cut: against a forward of all texts at once."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bigbatch.build.derived import Kept, derived
from bigbatch.data.packs import micro_batches
from bigbatch.errors import RecipeError
from bigbatch.parallel.single import SingleWorld
from bigbatch.samples import LossSums
from bigbatch.step.coupled import Coupled
from bigbatch.store.identity import Fingerprint, write_identity
from tests.executors import one_by_one
from tests.matching import base_of, guide_at, match_parts, pairs, scored_pairs, train_match_reference
from tests.split import TOLERANCE, assert_equal, gradient_error, train_split
from tests.step.test_split import both_precisions

ROWS = pairs(90)
SCORED = scored_pairs(90)
UPDATES = 4
CANCELS = "encoder.layer.1.output.LayerNorm.bias"
LOSSES: dict[str, dict[str, Any]] = {
    "cosine": {},
    "symmetric": {"symmetric": True, "temperature": 0.1},
    "dot": {"similarity": "dot", "temperature": 20.0},
}
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nested": ({"dimensions": [32, 16, 8], "dimension_weights": [1.0, 0.5, 0.25]},) * 2,
    "nested dot": ({"dimensions": [16, 4], "similarity": "dot", "temperature": 20.0},) * 2,
    "margin": ({"false_negatives": {"margin": 0.05}, "symmetric": True}, {"margin": 0.05, "symmetric": True}),
}
"""Job -> options of its task, what the oracle is told."""


BY_TEACHER: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "margin_mse": (
        {"loss": "margin_mse"},
        {"similarity": "dot", "dimensions": [32, 8]},
        {"teacher": "margin_mse"},
    ),
    "listwise_kl": (
        {"loss": {"name": "listwise_kl", "args": {"teacher_temperature": 2.0}}, "gradient": "plain"},
        {"temperature": 0.5},
        {"teacher": "listwise_kl"},
    ),
}
"""Job -> keys of its recipe, options of its task, what the oracle is told beside."""


@pytest.mark.parametrize("gradient", ["cached", "plain"])
@pytest.mark.parametrize(("micro_tokens", "packing"), [(64, "packed"), (64, "padded"), (100_000, "packed")])
@pytest.mark.parametrize("loss", LOSSES)
@both_precisions
def test_every_split_equals_the_whole_batch(tmp_path, loss, micro_tokens, packing, gradient, dtype):
    """Batches cross the ends of epochs; negatives, and texts that are known to be right as well, are among them.

    fp32 is held against the oracle in fp64, one update. The last norm's bias gets the sum of all embeddings' gradients,
    which nearly cancels: the oracle's own fp32 is beyond its bound there, so it counts with the whole gradient alone.
    """
    module = base_of().to(dtype)
    updates = UPDATES if dtype == torch.float64 else 1
    parts = match_parts(
        module,
        ROWS,
        tmp_path,
        micro_tokens=micro_tokens,
        packing=packing,
        task=LOSSES[loss],
        gradient=gradient,
    )
    found = train_split(parts, updates)
    exact = base_of().double()
    expected = train_match_reference(exact, parts, ROWS, updates, **LOSSES[loss])
    assert gradient_error(found.gradients[0], expected.gradients[0]) <= TOLERANCE[dtype]
    if dtype == torch.float32:
        del found.gradients[0][CANCELS], expected.gradients[0][CANCELS]
    assert_equal(found, expected, dtype)
    assert (max(map(len, found.pieces)) == 1) == (micro_tokens > 64)


@pytest.mark.parametrize("loss", OTHERS)
@both_precisions
def test_prefixes_and_judged_candidates_are_those_of_the_whole_batch(tmp_path, loss, dtype):
    options, told = OTHERS[loss]
    parts = match_parts(base_of().to(dtype), ROWS, tmp_path, micro_tokens=64, packing="packed", task=options)
    found = train_split(parts, 1)
    expected = train_match_reference(base_of().double(), parts, ROWS, 1, **told)
    plain = train_match_reference(base_of().double(), parts, ROWS, 1)
    assert gradient_error(found.gradients[0], expected.gradients[0]) <= TOLERANCE[dtype]
    assert gradient_error(plain.gradients[0], expected.gradients[0]) > 0.05, "the option makes a difference"
    assert found.losses == pytest.approx(expected.losses, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("packing", ["packed", "padded"])
@pytest.mark.parametrize("loss", BY_TEACHER)
@both_precisions
def test_a_teachers_scores_are_learnt_as_of_the_whole_batch(tmp_path, loss, packing, dtype):
    keys, task, told = BY_TEACHER[loss]
    split = {"micro_tokens": 64, "packing": packing}
    parts = match_parts(base_of().to(dtype), SCORED, tmp_path, task=task, **split, **keys)
    found = train_split(parts, 1)
    expected = train_match_reference(base_of().double(), parts, SCORED, 1, **task, **told)
    assert max(map(len, found.pieces)) > 1
    assert gradient_error(found.gradients[0], expected.gradients[0]) <= TOLERANCE[dtype]
    assert found.losses == pytest.approx(expected.losses, rel=TOLERANCE[dtype])


# The first token of a causal model sees nothing else: all its embeddings are equal.
@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        *(
            (family, pooling)
            for family in ("bert", "roberta", "modernbert")
            for pooling in ("mean", "first", "last")
        ),
        ("gpt2", "mean"),
        ("gpt2", "last"),
    ],
)
def test_families_and_poolings(tmp_path, family, pooling):
    module, dtype = base_of(family).double(), torch.float64
    parts = match_parts(module, ROWS, tmp_path, micro_tokens=80, packing="packed", task={"pooling": pooling})
    expected = train_match_reference(module, parts, ROWS, 2, pooling=pooling)
    assert_equal(train_split(parts, 2), expected, dtype)


def test_micro_batches_that_see_only_themselves_fail(tmp_path):
    module, dtype = base_of().double(), torch.float64
    parts = match_parts(module, ROWS, tmp_path, micro_tokens=400, packing="packed")
    # What accumulation does in other trainers: each micro-batch is a batch of its own.
    alone = one_by_one(parts.forward, parts.task, seed=parts.recipe.seed.dropout)
    parts.strategy = replace(parts.strategy, executor=alone)
    expected = train_match_reference(module, parts, ROWS, 1)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(train_split(parts, 1), expected, dtype)


def test_both_passes_draw_the_same_dropout_masks(tmp_path):
    """Two passes give the gradient of one, which drew its masks once."""

    def gradients(name: str):
        parts = match_parts(
            base_of(dropout=0.3).double(), ROWS, tmp_path, micro_tokens=80, packing="packed", gradient=name
        )
        return train_split(parts, 2)

    once, twice = gradients("plain"), gradients("cached")
    assert max(map(len, once.pieces)) > 1
    assert twice.losses == pytest.approx(once.losses, rel=1e-12)
    for mine, theirs in zip(twice.gradients, once.gradients, strict=True):
        for name, gradient in theirs.items():
            assert torch.allclose(mine[name], gradient, rtol=1e-10, atol=1e-14), name


def test_a_batch_of_4096_pairs_where_64_fit(tmp_path):
    """One update in micro-batches of at most 64 pairs equals the same in one piece, and keeps no graph between."""
    rows, dtype = pairs(4096, negatives=False), torch.float32
    module = base_of(hidden_size=16, num_attention_heads=2, intermediate_size=16, num_hidden_layers=1).to(
        dtype
    )
    longest = 64 * 40

    def trained(micro_tokens: int, gradient: str, dtype: torch.dtype):
        parts = match_parts(
            copy.deepcopy(module).to(dtype),
            rows,
            tmp_path,
            micro_tokens=micro_tokens,
            packing="packed",
            batch=4096,
            gradient=gradient,
        )
        found = train_split(parts, 1)
        return found, max(samples for samples, _ in found.pieces[0])

    whole, texts = trained(10**6, "plain", torch.float64)
    cut, few = trained(longest // 4, "cached", torch.float32)
    assert texts == 8192
    assert few <= 2 * 64
    assert_equal(cut, whole, torch.float32)


def test_loss_scale_and_accounts(tmp_path):
    """The sums count every text once, and the loss is not scaled."""
    parts = match_parts(base_of(), ROWS, tmp_path, micro_tokens=80, packing="packed")
    batch = parts.batches.at(0, 1)
    pieces = list(micro_batches(batch, micro_tokens=80, packing="packed"))
    sums = parts.strategy.executor.accumulate(1, pieces, parts.task.denominators(batch.targets))
    assert isinstance(sums, LossSums)
    assert sums.real_tokens == batch.tokens
    assert parts.task.denominators(batch.targets) == {"contrastive": 40.0}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"sync": {"replicas": 2, "period": 4}}, "sync.replicas"),
        ({"plan": {"reproducible": "bitwise", "micro_tokens": 64}}, "plan.reproducible"),
        ({"task": {"towers": 2}}, "planned"),
        ({"loss": {"label_smoothing": 0.1}}, "loss"),
        ({"metrics": ["accuracy"]}, "recall@k"),
    ],
)
def test_what_is_not_built_is_refused(tmp_path, keys, words):
    with pytest.raises(RecipeError, match=words):
        match_parts(base_of(), ROWS, tmp_path, micro_tokens=64, packing="packed", **keys)


def test_cached_is_for_losses_of_a_whole_batch():
    from bigbatch.recipe.load import load_recipe

    with pytest.raises(RecipeError, match="task match"):
        load_recipe({"gradient": "cached", "data": {"train": "a.csv"}}, environ={})
    assert load_recipe({"task": "match", "data": {"train": "a.csv"}}, environ={}).gradient.name == "cached"


class _Two(SingleWorld):
    """Two ranks that hold the same."""

    size = 2
    asked = 0

    def gather_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        self.asked += 1
        return [rows, rows]


def test_a_rank_without_room_for_what_it_was_shown_has_shown_all_of_its_own():
    """Else it would be asked how it went while the others still wait to be shown something."""
    executor, world = object.__new__(Coupled), _Two()
    executor._world, executor._device = world, "nowhere"
    with pytest.raises(RuntimeError, match="nowhere"):
        executor._everyone(torch.ones(2, 3), np.ones((2, 1)), {"teacher": np.ones(2)})
    assert world.asked == 3


@pytest.mark.parametrize(("micro_tokens", "packing"), [(64, "packed"), (100_000, "padded")])
@both_precisions
def test_a_guide_leaves_out_what_it_finds_nearer_than_the_right_one(tmp_path, micro_tokens, packing, dtype):
    """The guide is another model with another tokenizer; kept apart, its vectors are those of the oracle's forward."""
    guide, judged = guide_at(tmp_path / "guide")
    options = {"false_negatives": {"margin": 0.002, "guide": str(guide)}, "symmetric": True}
    parts = match_parts(
        base_of().to(dtype), ROWS, tmp_path, micro_tokens=micro_tokens, packing=packing, task=options
    )
    write_identity(tmp_path, Fingerprint(what={}), run_id="a")
    started = parts.data
    parts.data = derived(parts, Kept(tmp_path, "a"))
    found = train_split(parts, 1)
    told = {"margin": 0.002, "symmetric": True}
    expected = train_match_reference(base_of().double(), parts, ROWS, 1, judged=judged, **told)
    itself = train_match_reference(base_of().double(), parts, ROWS, 1, **told)
    assert gradient_error(found.gradients[0], expected.gradients[0]) <= TOLERANCE[dtype]
    assert gradient_error(itself.gradients[0], expected.gradients[0]) > 0.05, "the guide makes a difference"
    assert found.losses == pytest.approx(expected.losses, rel=TOLERANCE[dtype])
    kept = np.asarray(parts.tables["train"].extras["guide"])
    shutil.rmtree(guide)  # a resume reads the vectors back, bit by bit
    parts.data = started
    again = np.asarray(derived(parts, Kept(tmp_path, "a")).tables["train"].extras["guide"])
    assert again.dtype == np.float32 and again.tobytes() == kept.tobytes()
