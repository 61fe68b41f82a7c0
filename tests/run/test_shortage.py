"""A real shortage of memory (RLIMIT_AS) on one rank, between two updates that fitted."""

from __future__ import annotations

import pytest

JOB = "tests.run.shortage_jobs:short"


@pytest.mark.world_size(2)
@pytest.mark.parametrize(
    "mesh",
    [
        {"shard": 2},
        pytest.param(None, marks=pytest.mark.slow),
        pytest.param({"replicate": 2}, marks=pytest.mark.slow),
        pytest.param({"tensor": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_all_ranks_halve_the_micro_batch_and_go_on(ranks, tmp_path, mesh):
    size = 2 if mesh else 1
    found = ranks.run(JOB, size, tmp_path, root=str(tmp_path), mesh=mesh, rank=size - 1, room_mib=16)
    assert [rank["status"] for rank in found] == ["finished"] * size
    assert [rank["micro_tokens"] for rank in found] == [found[0]["micro_tokens"]] * size
    assert found[0]["steps"] == [1, 2] and found[0]["micro_tokens"] < 48 * 512
    assert found[0]["why"] and all("allocate memory" in why for why in found[0]["why"])
    assert all(why.startswith(f"rank {size - 1}: ") for why in found[0]["why"]) or size == 1
