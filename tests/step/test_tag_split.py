"""Tagging keeps the first promise: several units a sample, and the split changes nothing beyond rounding."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bigbatch.build.build import Given, build
from bigbatch.build.inputs import Live, read_inputs
from bigbatch.build.live import live_task
from bigbatch.build.parts import Parts
from bigbatch.recipe.load import load_recipe
from tests.models import VOCABULARY, tiny
from tests.split import CLIP, SMALL, TOLERANCE, assert_equal, gradient_error, plan_of, train_split

WEIGHTS = {"B-X": 2.0, "I-X": 0.5, "O": 1.0}


def rows_of(count: int) -> list[dict[str, Any]]:
    """Rows of token ids of uneven lengths; about half of the tokens have a tag."""
    random = np.random.default_rng(3)
    rows = []
    for _ in range(count):
        length = int(np.clip(random.lognormal(2.6, 0.7), 3, 40))
        labels = np.where(random.random(length) < 0.5, random.integers(0, 3, length), -100)
        labels[0], labels[1] = -100, 0
        rows.append({"input_ids": random.integers(3, VOCABULARY, length).tolist(), "labels": labels.tolist()})
    return rows


def parts_of(module: Any, rows: list[dict[str, Any]], micro_tokens: int, packing: str) -> Parts:
    recipe = load_recipe(
        {
            "model": {"name": None},
            "data": {"train": []},
            "task": {"name": "tag", "labels": list(WEIGHTS)},
            "loss": {"class_weights": WEIGHTS},
            "batch": 48,
            "updates": 3,
            "optimizer": {"lr": 1e-3},
            "clip": CLIP,
        },
        environ={},
    )
    live = Live(module=copy.deepcopy(module), train=rows)
    task = live_task(recipe, live)
    inputs = read_inputs(recipe, task, live)
    given = Given(live=live, plan=plan_of(micro_tokens, packing))
    return build(recipe, task, inputs, given)


def oracle(module: Any, rows: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of the whole padded batch, by transformers and torch alone."""
    model = copy.deepcopy(module).train()
    longest = max(len(row["input_ids"]) for row in rows)

    def rectangle(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[*row[name], *[fill] * (longest - len(row[name]))] for row in rows])

    ids = rectangle("input_ids", 0)
    logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
    weights = torch.tensor(list(WEIGHTS.values()), dtype=logits.dtype)
    # torch divides by the sum of the weights of the labels that are not ignored.
    loss = F.cross_entropy(logits.flatten(0, 1), rectangle("labels", -100).flatten(), weight=weights)
    loss.backward()
    return loss.item(), {name: item.grad for name, item in model.named_parameters() if item.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_every_split_equals_the_whole_batch(dtype: torch.dtype) -> None:
    rows = rows_of(96)
    module = tiny("bert", head="tokens", num_labels=3, **SMALL).to(dtype)
    whole = parts_of(module, rows, 10**6, "padded")
    expected = train_split(whole, updates=3)
    assert expected.micro_batches == [1, 1, 1]
    loss, gradient = oracle(module, [rows[int(row)] for row in whole.batches.at(0, 1).sample_ids_B])
    assert expected.losses[0] == pytest.approx(loss, rel=TOLERANCE[dtype])
    assert gradient_error(expected.gradients[0], gradient) <= TOLERANCE[dtype]
    for packing in ("packed", "padded"):
        found = train_split(parts_of(module, rows, 128, packing), updates=3)
        assert min(found.micro_batches) > 3
        assert_equal(found, expected, dtype)
