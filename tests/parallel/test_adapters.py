"""Adapters among ranks: the numbers of one process, whoever holds which part."""

from __future__ import annotations

import pytest

from tests.ranks import RankFailed

JOB = "tests.parallel.jobs:meshed_equality"
GIVEN = {"updates": 3, "micro_tokens": 1024, "optimizer": {"lr": 1e-2, "weight_decay": 0.01}}


@pytest.mark.world_size(2)
@pytest.mark.parametrize(
    ("mesh", "dtype"),
    [({"replicate": 2}, "fp64"), ({"shard": 2}, "fp64"), ({"shard": 2}, "fp32"), ({"tensor": 2}, "fp64")],
    ids=str,
)
def test_updates_equal_the_whole_batch(ranks, tmp_path, mesh, dtype):
    families = {"replicate": ["gpt2+dora"], "tensor": ["bert+lora", "llama+lora"]}
    families = families.get(next(iter(mesh)), ["bert+lora", "gpt2+dora"])
    found = ranks.run(JOB, 2, tmp_path, mesh=mesh, families=families, dtype=dtype, **GIVEN)
    for family in families:
        assert found[0][family]["error"] <= found[0][family]["bound"], (family, found[0][family])


@pytest.mark.world_size(2)
def test_lengths_of_rows_that_are_cut_are_refused(ranks, tmp_path):
    with pytest.raises(RankFailed, match=r"plan\.mesh\.tensor: dora needs the length of every whole row"):
        ranks.run(JOB, 2, tmp_path, mesh={"tensor": 2}, families=["bert+dora"], dtype="fp32", **GIVEN)


@pytest.mark.world_size(2)
@pytest.mark.parametrize("dtype", ["fp64", pytest.param("fp32", marks=pytest.mark.stress)])
def test_a_base_in_few_bits_is_one_on_all_ranks(ranks, tmp_path, dtype):
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")
    families = ["bert+4bit", "gpt2+8bit"]
    found = ranks.run(JOB, 2, tmp_path, mesh={"replicate": 2}, families=families, dtype=dtype, **GIVEN)
    for family in families:
        assert found[0][family]["error"] <= found[0][family]["bound"], (family, found[0][family])


@pytest.mark.world_size(2)
@pytest.mark.parametrize("axis", ["shard", pytest.param("tensor", marks=pytest.mark.stress)])
def test_codes_are_not_divided(ranks, tmp_path, axis):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(RankFailed, match=r"plan\.mesh: a base in 8 or 4 bits is not divided"):
        ranks.run(JOB, 2, tmp_path, mesh={axis: 2}, families=["bert+4bit"], dtype="fp32", **GIVEN)
