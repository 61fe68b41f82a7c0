"""The first promise for language models: predicted tokens of the whole global batch divide, however it was cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.language import documents, language_parts, model_of, train_language_reference
from tests.split import CLIP, assert_equal, train_split
from tests.step.test_split import MeanOfMeans, both_precisions

JOBS = {
    "mlm": {"name": "mlm"},
    "often": {"name": "mlm", "probability": 0.4, "mask_share": 0.5, "random_share": 0.3},
    "documents": {"name": "clm", "blocks": "documents"},
    "fixed": {"name": "clm", "blocks": "fixed"},
}
ROWS = documents(110)
UPDATES = 20
FEW = 8
"""Updates of the other splits: past the end of the second epoch."""
WHOLE = 16384


@pytest.fixture(scope="module")
def references():
    """The model and the oracle's updates of each job and dtype, computed once."""
    found = {}

    def get(name: str, dtype: torch.dtype):
        if (name, dtype) not in found:
            task = JOBS[name]
            module = model_of(task["name"]).to(dtype)
            parts = language_parts(module, ROWS, task, micro_tokens=2048, packing="padded")
            found[name, dtype] = module, train_language_reference(module, parts, ROWS, task, UPDATES)
        return found[name, dtype]

    return get


def split_parts(references, name: str, dtype: torch.dtype, micro_tokens: int, packing: str):
    module, expected = references(name, dtype)
    assert min(expected.norms) > CLIP, "clipping must be at work in every update"
    return language_parts(module, ROWS, JOBS[name], micro_tokens=micro_tokens, packing=packing), expected


@both_precisions
@pytest.mark.parametrize(
    ("micro_tokens", "packing"),
    [(256, "packed"), (512, "packed"), (WHOLE, "packed"), (256, "padded"), (WHOLE, "padded")],
)
@pytest.mark.parametrize("name", JOBS)
def test_every_split_equals_the_whole_batch(references, name, micro_tokens, packing, dtype):
    """Twenty updates and several epochs: batches cross their ends, where the masks change."""
    parts, expected = split_parts(references, name, dtype, micro_tokens, packing)
    assert parts.forward.output_layer is not None
    updates = UPDATES if (micro_tokens, packing) == (256, "packed") else FEW
    found = train_split(parts, updates)
    assert_equal(found, expected.first(updates), dtype)
    assert (max(found.micro_batches) == 1) == (micro_tokens == WHOLE)


@both_precisions
@pytest.mark.parametrize("name", ["mlm", "documents"])
def test_the_mean_of_means_fails(references, name, dtype):
    def averaged(micro_tokens: int):
        parts, expected = split_parts(references, name, dtype, micro_tokens, "packed")
        executor = MeanOfMeans(
            forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
        )
        parts.strategy = replace(parts.strategy, executor=executor)
        return train_split(parts, updates=2), expected.first(2)

    assert_equal(*averaged(WHOLE), dtype)
    found, expected = averaged(256)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(found, expected, dtype)


@both_precisions
def test_a_batch_may_hold_a_sample_twice_and_each_time_masked_anew(dtype):
    task, rows = JOBS["mlm"], ROWS[:30]
    module = model_of("mlm").to(dtype)
    keys = {"batch": {"samples": 40, "allow_repeats": True}}
    parts = language_parts(module, rows, task, micro_tokens=256, packing="packed", **keys)
    batch = parts.batches.at(0, 1)
    twice = [row for row in range(30) if (batch.sample_ids_B == row).sum() == 2]
    assert twice
    assert_equal(train_split(parts, 3), train_language_reference(module, parts, rows, task, 3), dtype)
