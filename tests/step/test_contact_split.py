"""The first promise for contacts: what is divided by is the pairs of the whole batch, wherever their chains run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.folds import SEPARATION, fold_parts, fold_rows, folder, train_fold_oracle
from tests.split import assert_equal, train_split
from tests.step.test_split import MeanOfMeans, both_precisions

ROWS = fold_rows(50)
UPDATES = 3
"""Past the end of the first epoch."""
ALONE, WHOLE = 1, 16384


@pytest.fixture(scope="module")
def references():
    """The model and the oracle's updates in each precision, computed once."""
    found = {}

    def get(dtype: torch.dtype):
        if dtype not in found:
            module = folder().to(dtype)
            parts = fold_parts(module, ROWS, micro_tokens=256, packing="padded")
            found[dtype] = module, train_fold_oracle(module, parts, ROWS, UPDATES)
        return found[dtype]

    return get


@both_precisions
@pytest.mark.parametrize(
    ("micro_tokens", "packing"), [(ALONE, "packed"), (96, "packed"), (WHOLE, "packed"), (96, "padded")]
)
def test_every_split_equals_the_whole_batch(references, micro_tokens, packing, dtype):
    module, expected = references(dtype)
    parts = fold_parts(module, ROWS, micro_tokens=micro_tokens, packing=packing)
    assert min(expected.norms) > parts.recipe.clip, "clipping must be at work in every update"
    found = train_split(parts, UPDATES)
    assert_equal(found, expected, dtype)
    assert set(found.micro_batches) == {1} if micro_tokens == WHOLE else min(found.micro_batches) > 2


@both_precisions
def test_the_mean_of_means_fails(references, dtype):
    module, expected = references(dtype)
    parts = fold_parts(module, ROWS, micro_tokens=96, packing="packed")
    executor = MeanOfMeans(
        forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
    )
    parts.strategy = replace(parts.strategy, executor=executor)
    found = train_split(parts, updates=1)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(found, expected.first(1), dtype)


def test_known_pairs_are_what_is_counted():
    parts = fold_parts(folder(), ROWS, micro_tokens=64, packing="packed")
    batch = parts.batches.at(24, 2)
    pairs = 0
    for row in batch.sample_ids_B:
        fold = ROWS[row]["structure"]
        known = [place for place, each in enumerate(fold) if each is not None]
        pairs += sum(second - first >= SEPARATION for first in known for second in known)
    assert parts.task.denominators(batch.targets) == {"contact": float(pairs)}
    assert pairs > 1000
