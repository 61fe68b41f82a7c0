"""Images that are drawn, among ranks that share or divide the model."""

from __future__ import annotations

import pytest

JOB = "tests.parallel.diffuse_jobs:equality"


@pytest.mark.world_size(2)
@pytest.mark.parametrize(
    ("mesh", "dtype"),
    [({"replicate": 2}, "fp64"), ({"replicate": 2}, "fp32"), ({"shard": 2}, "fp64")],
    ids=str,
)
def test_updates_equal_the_whole_batch(ranks, tmp_path, mesh, dtype):
    found = ranks.run(JOB, 2, tmp_path, mesh=mesh, dtype=dtype)
    assert found[0]["error"] <= found[0]["bound"]
    assert min(found[0]["micro_batches"]) > 1
