"""Recommendation among ranks: gradient and figures are those of one process."""

from __future__ import annotations

import pytest


@pytest.mark.world_size(2)
@pytest.mark.parametrize(
    ("dtype", "plan"), [("float64", {}), ("float32", {}), ("float64", {"mesh": {"shard": 2}})]
)
def test_ranks_equal_the_whole_batch(ranks, tmp_path, dtype, plan):
    found = ranks.run("tests.parallel.recommend_jobs:equality", 2, tmp_path, dtype=dtype, plan=plan)
    assert found[0]["error"] <= {"float64": 1e-10, "float32": 1e-5}[dtype]
    assert found[0]["figures"] == found[1]["figures"]
