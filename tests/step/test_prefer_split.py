"""The first promise for preferences: pairs of the whole global batch divide, however it was cut; none is torn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bigbatch.data.packs import micro_batches
from bigbatch.data.sides import PAIR
from tests.preferences import (
    decoder,
    preference_parts,
    preferences,
    scorer,
    train_preference_reference,
)
from tests.split import CLIP, assert_equal, train_split
from tests.step.test_split import MeanOfMeans, both_precisions

LOSSES = {
    "dpo": ({}, {}),
    "smoothed": ({"loss": {"label_smoothing": 0.2}}, {"smoothing": 0.2}),
    "ipo": ({"loss": "ipo"}, {"name": "ipo"}),
    "means": ({"loss": {"name": "dpo", "args": {"length_normalised": True}}}, {"means": True}),
    "simpo": (
        {"loss": {"name": "simpo", "args": {"gamma": 0.3}}},
        {"name": "simpo", "means": True, "gamma": 0.3},
    ),
    "reward": ({"task": {"name": "reward", "centring": 0.1}}, {"name": "reward", "centring": 0.1}),
    "orpo": ({"loss": "orpo"}, {"name": "orpo", "means": True}),
    "orpo_tokens": (
        {"loss": {"name": "orpo", "args": {"nll": "tokens"}}},
        {"name": "orpo_tokens", "means": True},
    ),
}
"""Job -> keys of its recipe, what the oracle is told."""
ROWS = [{**row, "margin": number % 3 / 2} for number, row in enumerate(preferences(60))]
UPDATES = {"dpo": 6, "ipo": 6}
"""Past the end of the second epoch: batches cross the ends of two. Of other losses less."""
PAIR_ALONE, WHOLE = 1, 16384


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """The model and the oracle's updates of each loss and dtype, computed once."""
    found = {}

    def get(name: str, dtype: torch.dtype):
        if (name, dtype) not in found:
            keys, told = LOSSES[name]
            module = (scorer() if name == "reward" else decoder()).to(dtype)
            folder = tmp_path_factory.mktemp("run")
            parts = preference_parts(module, ROWS, folder, micro_tokens=256, packing="padded", **keys)
            updates = UPDATES.get(name, 2)
            found[name, dtype] = module, train_preference_reference(module, parts, ROWS, updates, **told)
        return found[name, dtype]

    return get


def split_parts(references, folder, name: str, dtype: torch.dtype, micro_tokens: int, packing: str):
    module, expected = references(name, dtype)
    assert min(expected.norms) > CLIP, "clipping must be at work in every update"
    keys = LOSSES[name][0]
    return preference_parts(
        module, ROWS, folder, micro_tokens=micro_tokens, packing=packing, **keys
    ), expected


@both_precisions
@pytest.mark.parametrize(
    ("name", "micro_tokens", "packing"),
    [
        ("dpo", PAIR_ALONE, "packed"),
        ("dpo", 96, "packed"),
        ("dpo", WHOLE, "packed"),
        ("dpo", PAIR_ALONE, "padded"),
        ("dpo", 128, "padded"),
        ("dpo", WHOLE, "padded"),
        ("smoothed", 96, "packed"),
        ("ipo", 96, "packed"),
        ("ipo", 128, "padded"),
        ("means", 96, "packed"),
        ("simpo", 96, "packed"),
        ("orpo", 128, "padded"),
        ("reward", PAIR_ALONE, "packed"),
        ("reward", 96, "packed"),
        ("reward", 128, "padded"),
        ("orpo_tokens", 96, "packed"),
    ],
)
def test_every_split_equals_the_whole_batch(references, tmp_path, name, micro_tokens, packing, dtype):
    parts, expected = split_parts(references, tmp_path, name, dtype, micro_tokens, packing)
    found = train_split(parts, UPDATES.get(name, 2))
    assert_equal(found, expected, dtype)
    counts = {PAIR_ALONE: 24, WHOLE: 1}
    assert (
        set(found.micro_batches) == {counts[micro_tokens]}
        if micro_tokens in counts
        else min(found.micro_batches) > 2
    )


@both_precisions
@pytest.mark.parametrize("name", ["dpo", "ipo", "orpo_tokens", "reward"])
def test_the_mean_of_means_fails(references, tmp_path, name, dtype):
    def averaged(micro_tokens: int, folder):
        parts, expected = split_parts(references, folder, name, dtype, micro_tokens, "packed")
        executor = MeanOfMeans(
            forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
        )
        parts.strategy = replace(parts.strategy, executor=executor)
        return train_split(parts, updates=2), expected.first(2)

    assert_equal(*averaged(WHOLE, tmp_path), dtype)
    found, expected = averaged(96, tmp_path)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(found, expected, dtype)


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_no_pair_is_torn(tmp_path, packing):
    parts = preference_parts(decoder(), ROWS, tmp_path, micro_tokens=64, packing=packing)
    batch = parts.batches.at(48, 3)
    pieces = list(micro_batches(batch, micro_tokens=64, packing=packing))
    assert len(pieces) > 4
    pairs = [sorted(set(piece.targets.values[:, PAIR].tolist())) for piece in pieces]
    assert sorted(pair for own in pairs for pair in own) == list(range(24))
    assert all(len(piece.table) == 2 * len(own) for piece, own in zip(pieces, pairs, strict=True))
    torn = np.flatnonzero(pieces[0].targets.values[:, 1] == 0)  # the chosen answers alone
    targets = pieces[0].targets.map(lambda values: torch.from_numpy(np.array(values[torn])))
    with pytest.raises(AssertionError, match="torn"):
        parts.task.loss(torch.zeros(len(torn), 100), targets)
