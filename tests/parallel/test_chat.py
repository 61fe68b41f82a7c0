"""Conversations among ranks: whichever rank has a row, the gradient and the figures are those of one process."""

from __future__ import annotations

import pytest

from tests.chats import chat_model, chat_parts
from tests.parallel.chat_jobs import DTYPES, ROWS, figures_of
from tests.split import TOLERANCE


@pytest.mark.world_size(2)
@pytest.mark.parametrize(("dtype", "shard"), [("fp64", 1), ("fp32", 1), ("fp64", 2), ("fp32", 2)])
def test_ranks_and_divided_models_equal_the_whole_batch(ranks, tmp_path, dtype, shard):
    keys = {"plan": {"mesh": {"shard": shard}}} if shard > 1 else {}
    found = ranks.run("tests.parallel.chat_jobs:equality", 2, tmp_path, dtype=dtype, **keys)[0]
    print(f"{dtype} shard {shard}: {found}")
    assert found.pop("error") <= TOLERANCE[DTYPES[dtype]]
    assert found.pop("pieces") > 1
    if shard == 1:
        alone = chat_parts(chat_model().to(DTYPES[dtype]), ROWS, micro_tokens=200, packing="packed")
        assert found == figures_of(alone)
