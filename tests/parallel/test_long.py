"""Patterns of attention and remembered tokens among ranks, in parts and in cut products: one process's gradient."""

from __future__ import annotations

import pytest

JOB = "tests.parallel.long_jobs:equality"
BOUNDS = {"float64": 1e-10, "float32": 1e-5}


@pytest.mark.world_size(2)
@pytest.mark.parametrize("mesh", ["replicate", "shard", "tensor"])
def test_any_way_among_ranks_is_one_process(ranks, tmp_path, mesh):
    keys = {} if mesh == "replicate" else {"plan": {"mesh": {mesh: 2}}}
    found = ranks.run(JOB, 2, tmp_path, **keys)[0]
    assert len(found) == 4
    for model, dtype, error in found:
        assert error < BOUNDS[dtype], (model, dtype)
