"""The first promise for translation: target tokens of the whole global batch divide, however it was cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.models import PAIRS, tiny_pair
from tests.split import CLIP, assert_equal, train_split
from tests.step.test_split import MeanOfMeans, both_precisions
from tests.translation import pairs, train_translation_reference, translation_parts

ROWS = pairs(110)
WITHOUT_GAPS = pairs(110, gaps=False)
UPDATES = 6
WHOLE = 32768
SMOOTHED = {"loss": {"label_smoothing": 0.1}}
NO_LAYERDROP = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
"""Of the oracle: M2M100 leaves blocks out at random unless it is told not to, as it is here."""


def rows_of(family: str):
    """Of mBART without gaps: transformers takes the place of its language from the number of tokens that count."""
    return WITHOUT_GAPS if family == "mbart" else ROWS


@pytest.fixture(scope="module")
def references():
    """The model and the oracle's updates of each family and dtype, computed once."""
    found = {}

    def get(family: str, dtype: torch.dtype):
        if (family, dtype) not in found:
            module = reference = tiny_pair(family, init_std=0.05).to(dtype)
            keys = SMOOTHED if family == "marian" else {}
            parts = translation_parts(module, rows_of(family), micro_tokens=2048, packing="padded", **keys)
            oracle = {"label_smoothing": 0.1} if keys else {}
            if family == "m2m100":
                reference = tiny_pair(family, init_std=0.05, **NO_LAYERDROP).to(dtype)
            expected = train_translation_reference(reference, parts, rows_of(family), UPDATES, **oracle)
            found[family, dtype] = module, keys, expected
        return found[family, dtype]

    return get


def split_parts(references, family: str, dtype: torch.dtype, micro_tokens: int, packing: str):
    module, keys, expected = references(family, dtype)
    assert min(expected.norms) > CLIP, "clipping must be at work in every update"
    return translation_parts(
        module, rows_of(family), micro_tokens=micro_tokens, packing=packing, **keys
    ), expected


@both_precisions
@pytest.mark.parametrize(
    ("family", "packing", "micro_tokens"),
    [
        ("bart", "packed", WHOLE),
        *((family, packing, 256) for family in PAIRS for packing in ("padded", "packed")),
    ],
)
def test_every_split_equals_the_whole_batch(references, family, packing, micro_tokens, dtype):
    """Six updates cross the end of an epoch twice. Marian with label smoothing."""
    parts, expected = split_parts(references, family, dtype, micro_tokens, packing)
    assert parts.packing == packing
    assert parts.forward.output_layer is not None
    found = train_split(parts, UPDATES)
    assert_equal(found, expected, dtype)
    assert (max(found.micro_batches) == 1) == (micro_tokens == WHOLE)


@both_precisions
def test_the_mean_of_means_fails(references, dtype):
    def averaged(micro_tokens: int):
        parts, expected = split_parts(references, "bart", dtype, micro_tokens, "padded")
        executor = MeanOfMeans(
            forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
        )
        parts.strategy = replace(parts.strategy, executor=executor)
        return train_split(parts, updates=2), expected.first(2)

    assert_equal(*averaged(WHOLE), dtype)
    found, expected = averaged(256)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(found, expected, dtype)
