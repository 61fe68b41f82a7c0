"""The first promise for images that are drawn: noise, time and hidden classes belong to the image and the epoch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.drawings import SIZE, TASK, drawing_parts, tiny_dit, train_drawing_oracle
from tests.pictures import image_rows
from tests.split import CLIP, assert_equal, train_split
from tests.step.test_split import MeanOfMeans, both_precisions

UPDATES = 3
ROWS = image_rows(90, size=SIZE)
"""Two updates and a quarter: the third sees rows of two epochs, each with the noise of its epoch."""


@pytest.fixture(scope="module")
def references():
    """Model and oracle of each dtype, computed once."""
    found = {}

    def get(dtype: torch.dtype):
        if dtype not in found:
            module = tiny_dit().to(dtype)
            parts = drawing_parts(module, ROWS, micro_tokens=10**6)
            found[dtype] = module, train_drawing_oracle(module, parts, ROWS, UPDATES)
        return found[dtype]

    return get


@both_precisions
@pytest.mark.parametrize("micro_tokens", [4, 28, 10**6])
def test_every_split_equals_the_whole_batch(references, micro_tokens, dtype):
    """One image a micro-batch, seven (the last has five), all."""
    module, expected = references(dtype)
    assert min(expected.norms) > CLIP
    found = train_split(drawing_parts(module, ROWS, micro_tokens=micro_tokens), UPDATES)
    assert_equal(found, expected, dtype)
    assert max(found.micro_batches) == {4: 40, 28: 6}.get(micro_tokens, 1)


@both_precisions
def test_the_mean_of_means_fails(references, dtype):
    module, expected = references(dtype)
    parts = drawing_parts(module, ROWS, micro_tokens=28)
    executor = MeanOfMeans(
        forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
    )
    parts.strategy = replace(parts.strategy, executor=executor)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(train_split(parts, 1), expected.first(1), dtype)


def test_times_that_are_all_alike():
    module = tiny_dit().double()
    task = {**TASK, "times": "uniform"}
    parts = drawing_parts(module, ROWS, micro_tokens=64, task=task)
    assert_equal(train_split(parts, 1), train_drawing_oracle(module, parts, ROWS, 1), torch.float64)
