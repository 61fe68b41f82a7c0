"""Preferences among ranks: whichever rank has a pair, the reference and the gradient are those of one process."""

from __future__ import annotations

from typing import Any

import pytest

EQUALITY = "tests.parallel.prefer_jobs:equality"


@pytest.mark.world_size(2)
@pytest.mark.parametrize("dtype", ["fp64", "fp32"])
@pytest.mark.parametrize(
    ("packing", "loss", "told"),
    [
        ("packed", "dpo", {}),
        ("padded", {"name": "orpo", "args": {"nll": "tokens"}}, {"name": "orpo_tokens", "means": True}),
    ],
)
def test_ranks_equal_the_whole_batch(ranks, tmp_path, packing, loss, told, dtype):
    keys = {"packing": packing, "loss": loss, "told": told, "dtype": dtype}
    found = ranks.run(EQUALITY, 2, tmp_path, place=str(tmp_path), **keys)
    assert found[0]["error"] <= found[0]["bound"]
    assert found[0]["pieces"] > 1


@pytest.mark.world_size(2)
@pytest.mark.parametrize(("task", "dtype"), [("prefer", "fp64"), ("prefer", "fp32"), ("reward", "fp64")])
def test_a_divided_model_equals_the_whole_batch(ranks, tmp_path, task, dtype):
    keys: dict[str, Any] = {"packing": "packed", "dtype": dtype, "plan": {"mesh": {"shard": 2}}}
    if task == "reward":
        keys |= {"task": {"name": task, "centring": 0.1}, "told": {"name": task, "centring": 0.1}}
    found = ranks.run(EQUALITY, 2, tmp_path, place=str(tmp_path), **keys)
    assert found[0]["error"] <= found[0]["bound"]


@pytest.mark.world_size(2)
def test_figures_do_not_depend_on_the_ranks(ranks, tmp_path):
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
    found = [
        ranks.run("tests.parallel.prefer_jobs:evaluated", size, tmp_path, place=str(tmp_path / str(size)))
        for size in (1, 2)
    ]
    assert [len(each) for each in found] == [1, 2]
    assert all(each.keys() >= {"loss", "accuracy", "margin"} for answers in found for each in answers)
    assert found[1][0] == found[1][1]
