"""The first promise for conversations: the assistant's tokens of the whole global batch divide, however it was cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bigbatch.data.packs import micro_batches
from tests.chats import chat_model, chat_parts, talk, train_chat_reference
from tests.split import CLIP, assert_equal, gradient_error, train_split
from tests.step.test_split import MeanOfMeans, both_precisions

ROWS = talk(60, seed=1, system=True, most_turns=2)
WEIGHTED = talk(60, seed=2, most_turns=2, weights=(0, 0.25))
JOBS = {"chatml": ROWS, "llama3": ROWS, "weighted": WEIGHTED}
UPDATES = 3
ROW_ALONE, WHOLE = 1, 16384


@pytest.fixture(scope="module")
def references():
    """The model and the oracle's updates of each job and dtype, computed once."""
    found = {}

    def get(name: str, dtype: torch.dtype):
        if (name, dtype) not in found:
            module, template = chat_model().to(dtype), "chatml" if name == "weighted" else name
            parts = chat_parts(module, JOBS[name], template=template, micro_tokens=256, packing="padded")
            expected = train_chat_reference(module, parts, JOBS[name], UPDATES, template=template)
            found[name, dtype] = module, template, expected
        return found[name, dtype]

    return get


@both_precisions
@pytest.mark.parametrize(
    ("name", "micro_tokens", "packing"),
    [
        ("chatml", ROW_ALONE, "packed"),
        ("chatml", 200, "packed"),
        ("chatml", WHOLE, "packed"),
        ("chatml", 256, "padded"),
        ("llama3", 200, "packed"),
        ("weighted", 200, "packed"),
        ("weighted", 256, "padded"),
    ],
)
def test_every_split_equals_the_whole_batch(references, name, micro_tokens, packing, dtype):
    module, template, expected = references(name, dtype)
    assert min(expected.norms) > CLIP, "clipping must be at work in every update"
    parts = chat_parts(module, JOBS[name], template=template, micro_tokens=micro_tokens, packing=packing)
    found = train_split(parts, UPDATES)
    assert_equal(found, expected, dtype)
    counts = {ROW_ALONE: 24, WHOLE: 1}
    assert min(found.micro_batches) > 2 if micro_tokens not in counts else True
    errors = [gradient_error(*pair) for pair in zip(found.gradients, expected.gradients, strict=True)]
    print(f"{name} {micro_tokens} {packing} {dtype}: {max(errors):.1e}")


@both_precisions
def test_the_mean_of_means_fails(references, dtype):
    module, _, expected = references("chatml", dtype)
    parts = chat_parts(module, ROWS, micro_tokens=200, packing="packed")
    executor = MeanOfMeans(
        forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
    )
    parts.strategy = replace(parts.strategy, executor=executor)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(train_split(parts, 1), expected.first(1), dtype)


def test_packed_conversations_do_not_see_each_other():
    parts = chat_parts(chat_model().double(), ROWS, micro_tokens=WHOLE, packing="packed")
    [together] = micro_batches(parts.batches.at(0, 1), micro_tokens=WHOLE, packing="packed")
    alone = list(micro_batches(parts.batches.at(0, 1), micro_tokens=ROW_ALONE, packing="packed"))

    def logits(piece):
        with torch.no_grad():
            kept = parts.task.keep(parts.forward(piece), piece.targets.map(torch.from_numpy))
        units = np.cumsum(piece.table["units"].lengths)[:-1]
        return dict(zip(piece.sample_ids_B.tolist(), np.split(kept[:, 0].numpy(), units), strict=True))

    whole = logits(together)
    for piece in alone:
        for number, nll_U in logits(piece).items():
            # A row of which nothing counts has a unit of weight 0 when it is alone.
            counted = piece.targets.weights.any()
            np.testing.assert_allclose(nll_U if counted else [], whole[number], rtol=1e-10)
