"""The first promise for questions: what is divided by is the questions of the whole batch, wherever their windows run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bigbatch.data.packs import micro_batches
from bigbatch.data.shares import share_of
from bigbatch.data.windows import FIRST, FLAGS
from tests.questions import question_parts, question_rows, reader, train_question_reference, windows_by_hand
from tests.split import assert_equal, train_split
from tests.step.test_split import MeanOfMeans, both_precisions

ROWS = question_rows(40, without=7)
UPDATES = 3
"""Past the end of the first epoch."""
ALONE, WHOLE = 1, 16384


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """The model and the oracle's updates in each precision, computed once."""
    found = {}

    def get(dtype: torch.dtype):
        if dtype not in found:
            module = reader().to(dtype)
            parts = question_parts(
                module, ROWS, tmp_path_factory.mktemp("a"), micro_tokens=256, packing="padded"
            )
            found[dtype] = module, train_question_reference(module, parts, ROWS, UPDATES)
        return found[dtype]

    return get


@both_precisions
@pytest.mark.parametrize(
    ("micro_tokens", "packing"),
    [(ALONE, "packed"), (96, "packed"), (WHOLE, "packed"), (96, "padded"), (WHOLE, "padded")],
)
def test_every_split_equals_the_whole_batch(references, tmp_path, micro_tokens, packing, dtype):
    module, expected = references(dtype)
    parts = question_parts(module, ROWS, tmp_path, micro_tokens=micro_tokens, packing=packing)
    assert min(expected.norms) > parts.recipe.clip, "clipping must be at work in every update"
    found = train_split(parts, UPDATES)
    assert_equal(found, expected, dtype)
    assert set(found.micro_batches) == {1} if micro_tokens == WHOLE else min(found.micro_batches) > 2


@both_precisions
def test_the_mean_of_means_fails(references, tmp_path, dtype):
    module, expected = references(dtype)
    parts = question_parts(module, ROWS, tmp_path, micro_tokens=96, packing="packed")
    executor = MeanOfMeans(
        forward=parts.forward, task=parts.task, device=torch.device("cpu"), seed=parts.recipe.seed.dropout
    )
    parts.strategy = replace(parts.strategy, executor=executor)
    found = train_split(parts, updates=1)
    with pytest.raises(AssertionError, match="update 1: gradient error"):
        assert_equal(found, expected.first(1), dtype)


def test_questions_are_what_is_counted_and_their_windows_may_part(tmp_path):
    parts = question_parts(reader(), ROWS, tmp_path, micro_tokens=64, packing="packed")
    batch = parts.batches.at(24, 2)
    windows = [len(windows_by_hand(ROWS[row])["windows"]) for row in batch.sample_ids_B]
    assert parts.task.denominators(batch.targets) == {"span": 24.0}
    assert len(batch.table) == sum(windows) > 36 and max(windows) > 2
    pieces = list(micro_batches(batch, micro_tokens=64, packing="packed"))
    homes = [set(np.unique(piece.table.groups).tolist()) for piece in pieces]
    assert sum(map(len, homes)) > 24, "windows of a question run in several micro-batches"
    # A replica, and a random part of the noise scale, has whole questions.
    shares = [share_of(batch, number, 3) for number in range(3)]
    assert [parts.task.denominators(share.targets)["span"] for share in shares] == [8, 8, 8]
    assert sum(len(share.table) for share in shares) == len(batch.table)
    assert [int((share.targets.values[:, FLAGS] & FIRST).astype(bool).sum()) for share in shares] == [8, 8, 8]
