"""Ranks whose share of a batch has nothing to learn from compute it beside the others, and add nothing."""

from __future__ import annotations

import pytest

from bigbatch.parallel.single import SingleWorld
from tests.parallel.empty_jobs import scarce


@pytest.mark.world_size(2)
@pytest.mark.parametrize("packing", ["packed", "padded"])
@pytest.mark.parametrize("mesh", [{"replicate": 2}, {"shard": 2}, {"tensor": 2}], ids=str)
def test_ranks_without_units_give_the_numbers_of_one_process(ranks, tmp_path, mesh, packing):
    found = ranks.run("tests.parallel.empty_jobs:scarce", 2, tmp_path, mesh=mesh, packing=packing)
    alone = scarce(SingleWorld(), mesh={"replicate": 1}, packing=packing)
    assert min(found[0]["units"]) > 0
    for each in found:
        assert each["loss"] == pytest.approx(alone["loss"], rel=1e-10)


@pytest.mark.world_size(2)
def test_bitwise_sums(ranks, tmp_path):
    found = ranks.run(
        "tests.parallel.empty_jobs:scarce", 2, tmp_path, mesh={"replicate": 2}, packing="packed",
        **{"plan": {"reproducible": "bitwise", "threads": 1}},
    )  # fmt: skip
    assert found[0]["loss"] == found[1]["loss"]
