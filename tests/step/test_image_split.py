"""Images keep the first promise: what is random in them belongs to the sample, and the split changes only rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.pictures import (
    AUGMENT,
    MIXED,
    NAMES,
    image_parts,
    image_rows,
    tiny_vision,
    train_mixed_oracle,
    train_oracle,
)
from tests.split import CLIP, assert_equal, train_split
from tests.step.test_split import MeanOfMeans

UPDATES = 4
WEIGHTS = {"loss": {"class_weights": {"a": 0.3, "b": 2.0, "c": 1.0}}}
ROWS = image_rows(90)
"""Two updates and a quarter: the third sees rows of two epochs, each changed as its epoch says."""
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])


@pytest.fixture(scope="module")
def references():
    """Model and oracle of each family and dtype, computed once."""
    found = {}

    def get(family: str, dtype: torch.dtype):
        if (family, dtype) not in found:
            module = tiny_vision(family).to(dtype)
            parts = image_parts(module, ROWS, micro_tokens=10**6, **WEIGHTS)
            found[family, dtype] = module, train_oracle(module, parts, ROWS, UPDATES)
        return found[family, dtype]

    return get


@both_precisions
@pytest.mark.parametrize("micro_tokens", [20, 136, 10**6])
@pytest.mark.parametrize("family", ["vit", "beit"])
def test_every_split_equals_the_whole_batch(references, family, micro_tokens, dtype):
    """One image a micro-batch, eight, all; weighted classes, changed images, batches across epochs."""
    module, expected = references(family, dtype)
    assert min(expected.norms) > CLIP
    found = train_split(image_parts(module, ROWS, micro_tokens=micro_tokens, **WEIGHTS), UPDATES)
    assert_equal(found, expected, dtype)
    assert max(found.micro_batches) == {20: 40, 136: 5}.get(micro_tokens, 1)


@both_precisions
@pytest.mark.parametrize("family", ["deit", "dinov2"])
def test_other_families(references, family, dtype):
    module, expected = references(family, dtype)
    found = train_split(image_parts(module, ROWS, micro_tokens=150, **WEIGHTS), UPDATES)
    assert_equal(found, expected, dtype)


@both_precisions
def test_the_mean_of_means_fails(references, dtype):
    module, expected = references("vit", dtype)
    parts = image_parts(module, ROWS, micro_tokens=136, **WEIGHTS)
    executor = MeanOfMeans(
        forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
    )
    parts.strategy = replace(parts.strategy, executor=executor)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(train_split(parts, 2), expected.first(2), dtype)


@both_precisions
def test_images_of_two_equal_the_oracle_of_the_whole_batch(dtype):
    """Mixed, or with a rectangle of another image; both of their classes, weighed; in micro-batches of one and of seven."""
    keys = {**WEIGHTS, "task": {"name": "image", "labels": list(NAMES), "augment": MIXED}}
    module = tiny_vision("vit").to(dtype)
    expected = train_mixed_oracle(
        module, image_parts(module, ROWS, micro_tokens=10**6, **keys), ROWS, UPDATES
    )
    for micro_tokens in (20, 119):
        found = train_split(image_parts(module, ROWS, micro_tokens=micro_tokens, **keys), UPDATES)
        assert_equal(found, expected, dtype)


def test_images_that_stay_as_they_are(references):
    module, changed = references("vit", torch.float64)
    plain = {"task": {"name": "image", "labels": list(NAMES)}}
    parts = image_parts(module, ROWS, micro_tokens=136, **plain)
    expected = train_oracle(module, parts, ROWS, UPDATES)
    assert_equal(train_split(parts, UPDATES), expected, torch.float64)
    assert expected.losses != changed.losses, AUGMENT
