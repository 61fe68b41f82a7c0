"""Each sample's tokens move against that sample alone, however the batch is cut; moves of whole pieces do not."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bigbatch.step.nudge import Nudge
from tests.language import documents, language_parts, model_of, train_language_reference
from tests.reference import textbook_fgm
from tests.split import assert_equal, gradient_error, train_split
from tests.step.gradient_jobs import module_of, oracle, parts_with
from tests.step.test_split import both_precisions

UPDATES = 3
FGM: dict[str, Any] = {"name": "fgm", "epsilon": 0.5, "share": 0.4}
EQUALITY, BITS = "tests.step.gradient_jobs:equality", "tests.step.gradient_jobs:bits"


@pytest.mark.parametrize(("micro_tokens", "packing"), [(512, "packed"), (16384, "packed"), (512, "padded")])
@both_precisions
def test_every_split_equals_the_whole_batch(micro_tokens, packing, dtype):
    module = module_of(dtype)
    parts = parts_with(module, FGM, micro_tokens=micro_tokens, packing=packing)
    found = train_split(parts, UPDATES)
    assert_equal(found, oracle(module, parts, FGM, UPDATES), dtype)
    assert (max(found.micro_batches) == 1) == (micro_tokens == 16384)


@pytest.mark.parametrize("task", [{"name": "mlm"}, {"name": "clm", "blocks": "documents"}], ids=str)
def test_language_models(task):
    """Logits that are computed chunk by chunk, tied embeddings; a sample's loss is the sum of its tokens'."""
    module, rows = model_of(task["name"]).double(), documents(60)
    parts = language_parts(module, rows, task, micro_tokens=256, packing="packed", gradient=FGM)
    rule = partial(textbook_fgm, epsilon=0.5, share=0.4)
    expected = train_language_reference(module, parts, rows, task, 2, gradient=rule)
    assert_equal(train_split(parts, 2), expected, torch.float64)


@pytest.mark.world_size(2)
@pytest.mark.parametrize(
    ("keys", "dtype"),
    [
        ({}, "fp64"),
        ({}, "fp32"),
        ({"plan": {"mesh": {"shard": 2}}}, "fp64"),
        ({"plan": {"mesh": {"tensor": 2}}}, "fp64"),
    ],
    ids=str,
)
def test_ranks_equal_the_whole_batch(ranks, tmp_path, keys, dtype):
    found = ranks.run(EQUALITY, 2, tmp_path, gradient=FGM, dtype=dtype, **keys)
    assert found[0]["error"] <= found[0]["bound"]


@pytest.mark.world_size(2)
def test_the_same_bits_on_any_number_of_ranks(ranks, tmp_path):
    one, two = (ranks.run(BITS, size, tmp_path, gradient=FGM) for size in (1, 2))
    assert one[0] == two[0] == two[1]


def test_the_move_of_a_whole_piece_fails(monkeypatch):
    """The usual way: one norm over all tokens of a micro-batch."""

    def of_the_piece(self, micro_batch, length):
        gradient, self._leaf = self._leaf.grad, None
        self._move = length * gradient / gradient.norm()

    module = module_of(torch.float64)
    parts = parts_with(module, FGM)
    expected = oracle(module, parts, FGM, 1)
    monkeypatch.setattr(Nudge, "towards_loss", of_the_piece)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(train_split(parts, 1), expected, torch.float64)


def test_both_passes_draw_the_same_dropout_masks_and_leave_no_hook():
    """A move of no length: the gradient is the plain one, whatever was dropped, and so is the loss."""
    module = module_of(torch.float64, hidden_dropout_prob=0.3)
    parts = parts_with(module, {"name": "fgm", "epsilon": 1e-300})
    found, plain = train_split(parts, 1), train_split(parts_with(module, "plain"), 1)
    assert gradient_error(found.gradients[0], plain.gradients[0]) < 1e-12
    assert found.losses == pytest.approx(plain.losses, rel=1e-12)
    assert not parts.module.get_input_embeddings()._forward_hooks


def test_gradients_below_the_square_root_of_the_smallest_number_have_a_direction():
    """Batches of millions of tokens divide by as many."""
    nudge, embedding = _watched(torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [1.0, 0.0]]))
    nudge.towards_loss(_pack([1, 1, 1]), 2.0)
    assert nudge._move is not None
    assert torch.allclose(nudge._move[0], torch.tensor([[1.2, 1.6], [0.0, 0.0], [2.0, 0.0]]))


def _watched(gradient_TD: torch.Tensor) -> tuple[Nudge, torch.nn.Embedding]:
    embedding = torch.nn.Embedding(9, gradient_TD.shape[1])
    nudge = Nudge(embedding)
    with nudge.watching():
        embedding(torch.zeros(1, len(gradient_TD), dtype=torch.int64)).backward(gradient_TD[None])
    return nudge, embedding


def _pack(lengths: list[int]) -> Any:
    return SimpleNamespace(lengths_B=np.array(lengths), packing="packed")
