"""DETR and RT-DETR keep the first promise, too: their BatchNorms keep their statistics, and RT-DETR's several sets of boxes are
divided by the whole batch's things.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from bigbatch.build.parts import Parts
from bigbatch.errors import ModelError
from bigbatch.model.anatomy import logits_of
from bigbatch.model.load import load_model
from bigbatch.model.vision import HeldBatchNorm2d, hold_statistics, rounds_of
from bigbatch.recipe.learning import ModelSpec
from tests.detections import FAMILIES, box_rows, detect_parts, held, tiny_detr, tiny_rt_detr, train_oracle
from tests.split import assert_equal, gradient_error, train_split
from tests.step.test_split import MeanOfMeans

ROWS = box_rows(45)
UPDATES = {torch.float64: 3, torch.float32: 1}
"""RT-DETR reads images at places that it computes. In fp32 rounding moves them, also in the oracle, and Adam makes steps of it: there
one update is held against another."""
families = pytest.mark.parametrize("family", ["detr", "rt_detr"])


def positions_of(parts: Parts) -> int:
    form = parts.task.facts.image
    assert form is not None
    return form.positions


@pytest.fixture(scope="module")
def references():
    """Model and oracle of each family and dtype, computed once."""
    found = {}

    def get(family: str, dtype: torch.dtype):
        if (family, dtype) not in found:
            module = FAMILIES[family]().to(dtype)
            parts = detect_parts(module, ROWS, micro_tokens=10**6)
            oracle = train_oracle(held(copy.deepcopy(module)), parts, ROWS, UPDATES[dtype])
            found[family, dtype] = module, oracle, positions_of(parts)
        return found[family, dtype]

    return get


@families
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("images", [1, 7])
def test_every_split_equals_transformers_loss_of_the_whole_batch(references, family, images, dtype):
    module, expected, positions = references(family, dtype)
    found = train_split(detect_parts(module, ROWS, micro_tokens=images * positions), UPDATES[dtype])
    assert_equal(found, expected, dtype)
    assert max(found.micro_batches) == {1: 20, 7: 3}[images]


@families
def test_dividing_by_the_boxes_of_a_micro_batch_fails(references, family):
    module, expected, positions = references(family, torch.float64)
    parts = detect_parts(module, ROWS, micro_tokens=7 * positions)
    executor = MeanOfMeans(
        forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
    )
    parts.strategy = replace(parts.strategy, executor=executor)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(train_split(parts, 1), expected.first(1), torch.float64)


def test_statistics_that_are_counted_follow_from_the_cut(references):
    """As RT-DETR's own code does outside its backbone."""
    module, _, positions = references("rt_detr", torch.float64)
    found = []
    for images in (1, 7):
        parts = detect_parts(module, ROWS, micro_tokens=images * positions)
        for part in parts.module.modules():
            if isinstance(part, HeldBatchNorm2d):
                part.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
        if images == 1:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                train_split(parts, 1)
            continue
        found.append(train_split(parts, 1).gradients[0])
        whole = train_split(detect_parts(module, ROWS, micro_tokens=10**6), 1).gradients[0]
        assert gradient_error(found[0], whole) > 0.1


def test_the_gradient_of_one_image_behind_a_flatten():
    """Where torch 2.13's own backward in evaluation mode is wrong."""
    torch.manual_seed(0)
    outer = tiny_rt_detr().double()
    part = hold_statistics(outer).get_submodule("model.decoder_input_proj.0.1")
    assert isinstance(part, HeldBatchNorm2d)
    image = torch.randn(1, 16, 4, 4, dtype=torch.float64)
    given = torch.randn(1, 16, 16, dtype=torch.float64)
    (part.train()(image).flatten(2).transpose(1, 2) * given).sum().backward()
    expected = nn.functional.batch_norm(
        image.repeat(2, 1, 1, 1), part.running_mean, part.running_var, part.weight, part.bias, eps=part.eps
    )
    assert torch.allclose(part(image), expected[:1], rtol=1e-12, atol=1e-12)
    assert part.bias.grad is not None
    assert torch.allclose(part.bias.grad, given.sum((0, 1)), rtol=1e-12)


def test_sets_of_boxes_that_are_taught():
    assert rounds_of(tiny_detr()) == 0
    assert rounds_of(tiny_rt_detr()) == 3
    assert rounds_of(tiny_rt_detr(auxiliary_loss=False)) == 1
    outer = tiny_detr()
    outer.config.focal_alpha = 0.25  # as Conditional and Deformable DETR
    with pytest.raises(ModelError, match="made for a loss that task: detect does not have"):
        rounds_of(outer)


@pytest.mark.parametrize("family", ["detr", "rt_detr"])
def test_a_folder_with_other_classes(tmp_path, family):
    outer = FAMILIES[family]()
    del outer.config.image_size
    outer.save_pretrained(tmp_path)
    asked = {"kind": "boxes", "outputs": 5, "id2label": dict(enumerate("vwxyz")), "seed": 0, "dropout": None}
    with pytest.raises(
        ModelError, match=r"image_size: found None; expected the size .* such as \[480, 640\]"
    ):
        load_model(ModelSpec(name=str(tmp_path)), **asked)
    loaded = load_model(ModelSpec(name=str(tmp_path), config={"image_size": [16, 16]}), **asked)
    given = logits_of(loaded.module(torch.zeros(1, 3, 16, 16)))
    assert given.shape == (1, 6, {"detr": 5 + 1 + 4, "rt_detr": 3 * (5 + 4)}[family])
    notes = [note for note in loaded.notes if "BatchNorm" in note]
    assert [note.split()[0] for note in notes] == {"detr": [], "rt_detr": ["42"]}[family]


def test_a_live_model_with_other_classes(tmp_path):
    spec, asked = ModelSpec(), {"kind": "boxes", "outputs": 5, "seed": 0, "dropout": None}
    module: Any = load_model(spec, module=tiny_rt_detr(), **asked).module
    module.save_pretrained(tmp_path)
    again = type(module).from_pretrained(tmp_path, ignore_mismatched_sizes=False)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(logits_of(module.eval()(image)), logits_of(hold_statistics(again.eval())(image)))
