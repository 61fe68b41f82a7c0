"""Gradients are summed in buckets that come back one by one: few copies at a time, however large the model is."""

from __future__ import annotations

import pytest

from bigbatch.rules.buckets import BUCKET_BYTES, OF_A_TREE, ON_THEIR_WAY

JOB = "tests.parallel.memory_jobs:reduced"
MIB = 2**20
BOUND = ON_THEIR_WAY * BUCKET_BYTES / MIB
SLACK = 30.0
"""MiB of gloo, and of what malloc keeps."""


@pytest.mark.world_size(2)
@pytest.mark.parametrize("sizes", [[5] * 60, [200, 40, 10]], ids=["many small", "one large"])
def test_summing_takes_a_few_buckets_not_a_copy_of_all(ranks, tmp_path, sizes):
    for found in ranks.run(JOB, 2, tmp_path, sizes_mib=sizes, early=False):
        assert found["more"] < BOUND + SLACK < sum(sizes) / 2
        assert found["sums"] == [2.0] * len(sizes) and found["rest"] == pytest.approx([2.0] * len(sizes))


@pytest.mark.world_size(2)
def test_while_backward_runs_too(ranks, tmp_path):
    """Beyond the gradients themselves, which backward makes meanwhile; those of a slice take a second one for a moment."""
    sizes = [5] * 60
    for found in ranks.run(JOB, 2, tmp_path, sizes_mib=sizes, early=True):
        assert found["more"] < sum(sizes) + BOUND + SLACK
        assert found["sums"] == [2.0] * len(sizes) and found["rest"] == [0.0] * len(sizes)


@pytest.mark.world_size(2)
@pytest.mark.parametrize("sizes", [[5] * 60, [200, 40, 10]], ids=["many small", "one large"])
def test_bitwise_sums_take_a_few_buckets(ranks, tmp_path, sizes):
    for found in ranks.run(JOB, 2, tmp_path, sizes_mib=sizes, early=False, bitwise=True):
        assert found["more"] < OF_A_TREE * BUCKET_BYTES / MIB + 10  # nothing is left to gloo
        assert found["sums"] == [2.0] * len(sizes) and found["rest"] == pytest.approx([2.0] * len(sizes))
