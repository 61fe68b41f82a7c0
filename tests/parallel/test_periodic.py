"""Replicas meet: the same bits on any number of ranks, and as many bytes as were promised."""

from __future__ import annotations

import numpy as np
import pytest

from bigbatch.errors import UsageError
from bigbatch.parallel.periodic import Meeting
from bigbatch.parallel.single import SingleWorld
from tests.parallel import jobs

JOBS = "tests.parallel.jobs:"
SIZES = (35 * 4, 3 * 8, 4 * 8, 2 * 2)
"""Bytes of one made-up replica, by type."""


@pytest.mark.world_size(4)
@pytest.mark.parametrize("bucket_bytes", [16, 2**20])
def test_a_mean_has_the_same_bits_on_any_number_of_ranks(ranks, tmp_path, bucket_bytes):
    alone = jobs.means(SingleWorld(), replicas=5, bucket_bytes=bucket_bytes)
    for size in (2, 3, 4):
        found = ranks.run(JOBS + "means", size, tmp_path, replicas=5, bucket_bytes=bucket_bytes)
        for each in found:
            assert each["means"] == alone["means"] and each["dtypes"] == alone["dtypes"]
            assert each["drift"] == pytest.approx(alone["drift"], rel=1e-12)


def test_a_mean_is_the_mean():
    found = jobs.means(SingleWorld(), replicas=3, bucket_bytes=64)
    each = [found["expected"][f"{number}/1"] for number in range(3)]
    np.testing.assert_allclose(found["means"][1], np.mean(each, axis=0), rtol=1e-15)
    whole = [found["expected"][f"{number}/2"] for number in range(3)]
    np.testing.assert_array_equal(found["means"][2], np.round(np.mean(whole, axis=0)))
    assert found["dtypes"] == ["torch.float32", "torch.float64", "torch.int64", "torch.bfloat16"]


def test_the_drift_is_the_distance_from_the_mean():
    found = jobs.means(SingleWorld(), replicas=4, bucket_bytes=2**20)
    spread = size = 0.0
    for place in (0, 1, 3):
        mean = np.array(found["means"][place])
        size += float((mean**2).sum())
        spread += sum(
            float(((np.array(found["expected"][f"{n}/{place}"]) - mean) ** 2).sum()) for n in range(4)
        )
    assert found["drift"] == pytest.approx((spread / 4 / size) ** 0.5, rel=1e-12)


def test_equal_replicas_give_themselves():
    import torch

    value = torch.rand(1000) / 3
    found = Meeting(SingleWorld(), 3).mean([[value], [value.clone()], [value.clone()]])
    assert torch.equal(found.tensors[0], value) and found.drift == 0.0


@pytest.mark.world_size(2)
def test_a_rank_sends_what_an_all_reduce_would(ranks, tmp_path):
    """Two ranks, one replica each: half of the weights out, half of the mean out; odd sizes are filled up."""
    for found in ranks.run(JOBS + "means", 2, tmp_path, replicas=2, bucket_bytes=2**20):
        assert sum(SIZES) <= found["bytes"] <= sum(SIZES) + 4 * 8


def test_more_ranks_than_replicas_are_refused():
    world = SingleWorld()
    world.size = 3
    with pytest.raises(UsageError, match="sync.replicas: 2 cannot use 3 ranks"):
        Meeting(world, 2)


@pytest.mark.world_size(3)
@pytest.mark.parametrize("outer", ["average", "diloco"])
def test_training_has_the_same_bits_on_any_number_of_ranks(ranks, tmp_path, outer):
    """Dropout on, clipping on, AdamW, a batch that the replicas do not divide, an end between two meetings."""
    given = {"updates": 8, "replicas": 3, "period": 3, "batch": 32, "sync": {"outer": outer}}
    (alone,) = ranks.run(JOBS + "apart", 1, tmp_path, **given)
    for size in (2, 3):
        found = ranks.run(JOBS + "apart", size, tmp_path, **given)
        for each in found:
            assert {key: each[key] for key in ("hash", "losses", "norms")} == {
                key: alone[key] for key in ("hash", "losses", "norms")
            }
        together = {name: shape for each in found for name, shape in each["saved"].items()}
        assert together == alone["saved"] and sum(len(each["saved"]) for each in found) == len(together)
        assert alone["bytes"] == 0 < found[0]["bytes"]
        assert [each["held"] for each in found] == {2: [[0], [1, 2]], 3: [[0], [1], [2]]}[size]
