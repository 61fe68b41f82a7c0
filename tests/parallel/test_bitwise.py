"""`plan.reproducible: bitwise`: one hash of the parameters for 1, 2 and 4 ranks, dropout on."""

from __future__ import annotations

import pytest

from tests.ranks import RankFailed

JOB = "tests.parallel.jobs:hashed"


@pytest.mark.world_size(4)
@pytest.mark.parametrize("updates", [20, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.stress])])
def test_many_updates_end_in_one_hash(ranks, tmp_path, updates):
    found = [ranks.run(JOB, size, tmp_path, updates=updates) for size in (1, 2, 4)]
    everyone = [rank for group in found for rank in group]
    assert all(rank == everyone[0] for rank in everyone)
    assert len(set(everyone[0]["losses"])) > updates * 5 / 6


@pytest.mark.world_size(4)
def test_few_micro_batches_leave_ranks_without_work_and_the_same_hash(ranks, tmp_path):
    found = [ranks.run(JOB, size, tmp_path, updates=4, batch=3) for size in (1, 2, 4)]
    everyone = [rank for group in found for rank in group]
    assert all(rank == everyone[0] for rank in everyone)


@pytest.mark.world_size(2)
def test_without_it_other_ranks_have_other_bits(ranks, tmp_path):
    """Else the test above would prove nothing."""
    found = [ranks.run(JOB, size, tmp_path, updates=3, reproducible="off", dropout=0.0) for size in (1, 2)]
    assert found[0][0]["hash"] != found[1][0]["hash"]


@pytest.mark.world_size(3)
def test_three_ranks_are_refused(ranks, tmp_path):
    with pytest.raises(RankFailed, match="bitwise needs 1, 2, 4, 8"):
        ranks.run(JOB, 3, tmp_path, updates=1)
