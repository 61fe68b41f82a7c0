"""Boxes among ranks that share or divide the model: what is divided by is that of the whole batch."""

from __future__ import annotations

import pytest

JOB = "tests.parallel.detect_jobs:equality"


@pytest.mark.world_size(2)
@pytest.mark.parametrize(
    ("family", "mesh", "dtype"),
    [
        ("yolos", {"replicate": 2}, "fp64"),
        ("yolos", {"shard": 2}, "fp32"),
        ("detr", {"shard": 2}, "fp32"),
        ("rt_detr", {"replicate": 2}, "fp64"),
        ("rt_detr", {"shard": 2}, "fp64"),
    ],
    ids=str,
)
def test_updates_equal_the_whole_batch(ranks, tmp_path, family, mesh, dtype):
    found = ranks.run(JOB, 2, tmp_path, mesh=mesh, dtype=dtype, family=family)
    assert found[0]["error"] <= found[0]["bound"]
    assert min(found[0]["micro_batches"]) > 1
