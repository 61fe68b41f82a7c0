"""The first promise for recommendation: predicted items of the whole global batch divide, however it was cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.recommendations import histories, recommend_parts, recommender, train_recommend_reference
from tests.split import CLIP, assert_equal, train_split
from tests.step.test_split import MeanOfMeans, both_precisions

ROWS = histories(60)
UPDATES = 5
"""Past the end of the first epoch."""
WHOLE = 16384


@pytest.fixture(scope="module")
def references():
    """The model and the oracle's updates of each dtype, computed once."""
    found = {}

    def get(dtype: torch.dtype):
        if dtype not in found:
            module = recommender().to(dtype)
            parts = recommend_parts(module, ROWS, micro_tokens=2048, packing="padded")
            found[dtype] = module, train_recommend_reference(module, parts, ROWS, UPDATES)
        return found[dtype]

    return get


def split_parts(references, dtype: torch.dtype, micro_tokens: int, packing: str):
    module, expected = references(dtype)
    assert min(expected.norms) > CLIP, "clipping must be at work in every update"
    return recommend_parts(module, ROWS, micro_tokens=micro_tokens, packing=packing), expected


@both_precisions
@pytest.mark.parametrize(
    ("micro_tokens", "packing"), [(64, "packed"), (WHOLE, "packed"), (64, "padded"), (WHOLE, "padded")]
)
def test_every_split_equals_the_whole_batch(references, micro_tokens, packing, dtype):
    parts, expected = split_parts(references, dtype, micro_tokens, packing)
    assert parts.forward.output_layer is not None
    found = train_split(parts, UPDATES)
    assert_equal(found, expected, dtype)
    assert (max(found.micro_batches) == 1) == (micro_tokens == WHOLE)


@both_precisions
def test_the_mean_of_means_fails(references, dtype):
    def averaged(micro_tokens: int):
        parts, expected = split_parts(references, dtype, micro_tokens, "packed")
        executor = MeanOfMeans(
            forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
        )
        parts.strategy = replace(parts.strategy, executor=executor)
        return train_split(parts, updates=2), expected.first(2)

    assert_equal(*averaged(WHOLE), dtype)
    found, expected = averaged(64)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(found, expected, dtype)
