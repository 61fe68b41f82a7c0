"""The first promise: loss and gradient do not depend on how the batch was split. And the wrong ways do."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from bigbatch.step.executor import OneByOne, Passes, Plain
from tests.models import tiny
from tests.reference import TextbookLamb, TextbookSgd
from tests.split import (
    CLIP,
    PROBLEMS,
    SMALL,
    assert_equal,
    parts_of,
    rows_of,
    train_reference,
    train_split,
)

WEIGHTS = {"class_weights": {"a": 0.3, "b": 2.0, "c": 1.0}}
POSITIVE = {"a": 5.0, "c": 0.25}
KEYS = {
    "single": {},
    "weighted": {"loss": WEIGHTS},
    "multi": {},
    "regression": {},
    "pairs": {},
    "smoothed": {"loss": {**WEIGHTS, "label_smoothing": 0.1}},
    "sgd": {"loss": WEIGHTS, "optimizer": {"name": "sgd", "lr": 0.5, "weight_decay": 0.01}},
    "several weighted": {"loss": {"name": "bce", "class_weights": POSITIVE}},
    "lamb": {"loss": WEIGHTS, "optimizer": {"name": "lamb", "lr": 0.01, "weight_decay": 0.01}},
}
"""Job -> the keys of its recipe."""
KINDS = ("single", "weighted", "multi", "several weighted", "regression", "pairs")
ORACLE = {
    "smoothed": {"label_smoothing": 0.1},
    "sgd": {"optimizer": TextbookSgd},
    "several weighted": {"positive": [5.0, 1.0, 0.25]},
    "lamb": {"optimizer": partial(TextbookLamb, eps=1e-6)},  # the default eps of lamb
}
"""Job -> what the oracle is told beside rows and learning rates."""
SPLITS = [
    (512, "packed"),
    (2048, "packed"),
    (16384, "packed"),
    (512, "padded"),
    (2048, "padded"),
    (16384, "padded"),
]
LONGEST = 40
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])


def job(name: str):
    """Rows and kind of a job."""
    kind = {"multi": "multi", "several weighted": "multi", "regression": "regression"}.get(name, "single")
    return rows_of(kind, 200, pairs=name == "pairs", seed=list(KEYS).index(name), longest=LONGEST), kind


@pytest.fixture(scope="module")
def references():
    """The model and the oracle's 20 updates of each job and dtype, computed once."""
    found = {}

    def get(name: str, dtype: torch.dtype):
        if (name, dtype) not in found:
            rows, kind = job(name)
            outputs = 1 if kind == "regression" else 3
            module = tiny("bert", num_labels=outputs, problem_type=PROBLEMS[kind], **SMALL).to(dtype)
            parts = parts_of(module, rows, kind, micro_tokens=2048, packing="padded", **KEYS[name])
            found[name, dtype] = module, train_reference(module, parts, rows, kind, **ORACLE.get(name, {}))
        return found[name, dtype]

    return get


def split_parts(references, name: str, dtype: torch.dtype, micro_tokens: int, packing: str):
    """The job, ready to be trained in this split, and what the oracle made of it."""
    module, expected = references(name, dtype)
    assert min(expected.norms) > CLIP, "clipping must be at work in every update"
    rows, kind = job(name)
    return parts_of(module, rows, kind, micro_tokens=micro_tokens, packing=packing, **KEYS[name]), expected


@both_precisions
@pytest.mark.parametrize(("micro_tokens", "packing"), SPLITS)
@pytest.mark.parametrize("name", KINDS)
def test_every_split_equals_the_whole_batch(references, name, micro_tokens, packing, dtype):
    parts, expected = split_parts(references, name, dtype, micro_tokens, packing)
    found = train_split(parts)
    assert_equal(found, expected, dtype)
    assert (max(found.micro_batches) == 1) == (micro_tokens == 16384)


@both_precisions
@pytest.mark.parametrize("name", ["smoothed", "sgd", "lamb"])
def test_smoothing_and_the_other_optimizers_too(references, name, dtype):
    parts, expected = split_parts(references, name, dtype, 512, "packed")
    found = train_split(parts)
    assert_equal(found, expected, dtype)
    assert min(found.micro_batches) > 1


@both_precisions
@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_a_sample_longer_than_a_micro_batch_is_alone_and_counts_the_same(references, packing, dtype):
    budget = LONGEST // 2
    parts, expected = split_parts(references, "weighted", dtype, budget, packing)
    found = train_split(parts, updates=3)
    assert_equal(found, expected.first(3), dtype)
    for pieces in found.pieces:
        too_long = [samples for samples, computed in pieces if computed > budget]
        assert too_long
        assert set(too_long) == {1}
        assert any(samples > 1 for samples, _ in pieces)


class MeanOfMeans:
    """The usual mistake: every micro-batch divides by its own weights, and the averages are averaged."""

    def __init__(self, *, forward, task, device, seed):
        self.task, self.plain, self.passes = task, Plain(forward, task, device), Passes(device, seed)

    def accumulate(self, update, micro_batches, denominators):
        pieces = list(micro_batches)

        def rule(micro_batch, denominators, seed):
            own = self.task.denominators(micro_batch.targets)
            return self.plain(micro_batch, {term: own[term] * len(pieces) for term in denominators}, seed)

        return OneByOne(rule, self.passes).accumulate(update, pieces, denominators)


@both_precisions
@pytest.mark.parametrize("name", ["single", "weighted", "multi", "regression", "pairs"])
def test_the_mean_of_means_fails(references, name, dtype):
    """And only because of the averaging: with one micro-batch the same executor passes."""

    def averaged(micro_tokens: int):
        parts, expected = split_parts(references, name, dtype, micro_tokens, "packed")
        executor = MeanOfMeans(
            forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
        )
        parts.strategy = replace(parts.strategy, executor=executor)
        return train_split(parts, updates=2), expected.first(2)

    assert_equal(*averaged(16384), dtype)
    found, expected = averaged(512)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(found, expected, dtype)
