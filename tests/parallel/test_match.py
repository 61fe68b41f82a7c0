"""A loss of the whole batch among ranks: embeddings are shown to all, gradients are those of one process."""

from __future__ import annotations

import pytest

EQUALITY = "tests.parallel.match_jobs:equality"


@pytest.mark.world_size(3)
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("gradient", ["cached", "plain"])
def test_ranks_equal_the_whole_batch(ranks, tmp_path, size, gradient):
    found = ranks.run(EQUALITY, size, tmp_path, place=str(tmp_path), gradient=gradient)
    assert found[0]["error"] <= found[0]["bound"]


@pytest.mark.world_size(3)
@pytest.mark.parametrize("mesh", [{"shard": 2}, {"shard": 3}], ids=str)
def test_a_divided_model_equals_the_whole_batch(ranks, tmp_path, mesh):
    size = mesh["shard"]
    found = ranks.run(EQUALITY, size, tmp_path, place=str(tmp_path), plan={"mesh": mesh})
    assert found[0]["error"] <= found[0]["bound"]


@pytest.mark.world_size(3)
def test_figures_do_not_depend_on_the_ranks(ranks, tmp_path):
    found = [
        ranks.run("tests.parallel.match_jobs:evaluated", size, tmp_path, place=str(tmp_path))
        for size in (1, 2, 3)
    ]
    assert all(each == found[0][0] for answers in found for each in answers)
