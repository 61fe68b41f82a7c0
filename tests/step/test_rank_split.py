"""The first promise for ranking: queries of the whole global batch divide, however it was cut; none is torn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.rankings import RANK_CLIP, candidates, rank_parts, ranker, train_rank_reference
from tests.split import assert_equal, train_split
from tests.step.test_split import MeanOfMeans, both_precisions

ROWS = candidates(40)
UPDATES = 4
"""Past the end of the first epoch."""
WHOLE = 16384


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """The model and the oracle's updates of each loss and dtype, computed once."""
    found = {}

    def get(name: str, dtype: torch.dtype):
        if (name, dtype) not in found:
            module, folder = ranker().to(dtype), tmp_path_factory.mktemp("run")
            parts = rank_parts(module, ROWS, folder, micro_tokens=2048, packing="padded", loss=name)
            found[name, dtype] = module, train_rank_reference(module, parts, ROWS, UPDATES, folder, name)
        return found[name, dtype]

    return get


def split_parts(references, folder, name: str, dtype: torch.dtype, micro_tokens: int, packing: str):
    module, expected = references(name, dtype)
    assert min(expected.norms) > RANK_CLIP, "clipping must be at work in every update"
    return rank_parts(module, ROWS, folder, micro_tokens=micro_tokens, packing=packing, loss=name), expected


@both_precisions
@pytest.mark.parametrize(
    ("name", "micro_tokens", "packing"),
    [
        ("listwise", 128, "packed"), ("listwise", WHOLE, "packed"), ("listwise", 128, "padded"),
        ("pairwise", 128, "packed"), ("pairwise", 96, "padded"), ("pointwise", 128, "packed"),
    ],
)  # fmt: skip
def test_every_split_equals_the_whole_batch(references, tmp_path, name, micro_tokens, packing, dtype):
    parts, expected = split_parts(references, tmp_path, name, dtype, micro_tokens, packing)
    found = train_split(parts, UPDATES)
    assert_equal(found, expected, dtype)
    assert (max(found.micro_batches) == 1) == (micro_tokens == WHOLE)


@both_precisions
@pytest.mark.parametrize("name", ["listwise", "pairwise", "pointwise"])
def test_the_mean_of_means_fails(tmp_path, name, dtype):
    # Each micro-batch has something to divide by.
    uneven = {row["group"] for row in ROWS if row["label"] == 0} & {
        row["group"] for row in ROWS if row["label"] > 0
    }
    rows = [row for row in ROWS if row["group"] in uneven]
    module = ranker().to(dtype)
    parts = rank_parts(module, rows, tmp_path, micro_tokens=128, packing="packed", loss=name)
    expected = train_rank_reference(module, parts, rows, 1, tmp_path, name)
    executor = MeanOfMeans(
        forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
    )
    parts.strategy = replace(parts.strategy, executor=executor)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(train_split(parts, updates=1), expected, dtype)
