"""Boxes keep the first promise: transformers' own loss of a whole batch, whichever way the batch is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.detections import NAMES, box_rows, detect_parts, tiny_detector, train_oracle
from tests.split import CLIP, assert_equal, train_split
from tests.step.test_split import MeanOfMeans

UPDATES = 4
ROWS = box_rows(45)
"""Two updates and a quarter: the third sees rows of two epochs. From 0 to 9 things on an image, 6 boxes given."""
POSITIONS = 23
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])


@pytest.fixture(scope="module")
def references():
    """Model and oracle of each dtype, computed once."""
    found = {}

    def get(dtype: torch.dtype):
        if dtype not in found:
            module = tiny_detector().to(dtype)
            parts = detect_parts(module, ROWS, micro_tokens=10**6)
            found[dtype] = module, train_oracle(module, parts, ROWS, UPDATES)
        return found[dtype]

    return get


@both_precisions
@pytest.mark.parametrize("images", [1, 7, 20])
def test_every_split_equals_transformers_loss_of_the_whole_batch(references, images, dtype):
    module, expected = references(dtype)
    assert min(expected.norms) > CLIP
    found = train_split(detect_parts(module, ROWS, micro_tokens=images * POSITIONS), UPDATES)
    assert_equal(found, expected, dtype)
    assert max(found.micro_batches) == {1: 20, 7: 3, 20: 1}[images]


@both_precisions
def test_dividing_by_the_boxes_of_a_micro_batch_fails(references, dtype):
    """As every other trainer does."""
    module, expected = references(dtype)
    parts = detect_parts(module, ROWS, micro_tokens=7 * POSITIONS)
    executor = MeanOfMeans(
        forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
    )
    parts.strategy = replace(parts.strategy, executor=executor)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(train_split(parts, 2), expected.first(2), dtype)


def test_images_that_stay_as_they_are(references):
    module, changed = references(torch.float64)
    plain = {"task": {"name": "detect", "labels": list(NAMES)}}
    parts = detect_parts(module, ROWS, micro_tokens=5 * POSITIONS, **plain)
    expected = train_oracle(module, parts, ROWS, UPDATES)
    assert_equal(train_split(parts, UPDATES), expected, torch.float64)
    assert expected.losses != changed.losses
