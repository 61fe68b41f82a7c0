"""A loss of the whole batch among ranks: embeddings are shown to all, gradients are those of one process."""

from __future__ import annotations

import pytest

PREFIXES = {"dimensions": [32, 8], "false_negatives": {"margin": 0.05}}
TOLD = {"dimensions": [32, 8], "margin": 0.05}
EQUALITY = "tests.parallel.match_jobs:equality"


@pytest.mark.world_size(3)
@pytest.mark.parametrize(
    ("size", "keys"),
    [
        (2, {"gradient": "cached"}),
        (3, {"gradient": "plain"}),
        (3, {"task": PREFIXES, "told": TOLD}),
        (2, {"told": {"margin": 0.002, "judged": True}}),
        (2, {"loss": "margin_mse", "gradient": "plain", "told": {"teacher": "margin_mse"}}),
    ],
    ids=str,
)
def test_ranks_equal_the_whole_batch(ranks, tmp_path, size, keys):
    found = ranks.run(EQUALITY, size, tmp_path, place=str(tmp_path), **keys)
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
