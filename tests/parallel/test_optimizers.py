"""Optimisers that need more than a part of a tensor: on shared parameters and on copies as on one process."""

from __future__ import annotations

import pytest

OPTIMIZERS = {
    "lamb": {"name": "lamb", "lr": 1e-2},
    "lars": {"name": "lars", "lr": 1.0},
    "muon": {"name": "muon", "lr": 1e-2},
    "keller": {"name": "muon", "lr": 1e-2, "args": {"scale": "keller"}},
    "lion": {"name": "lion", "lr": 1e-3},
    "layers": {"name": "lamb", "lr": 1e-2, "layer_decay": 0.5},
}
MESHES = [None, {"shard": 2}, {"tensor": 2}]
RARE = [(name, {"tensor": 2}) for name in ("lars", "keller", "lion", "layers")]
CASES = [
    pytest.param(name, mesh, marks=[pytest.mark.stress] if (name, mesh) in RARE else [], id=f"{name}-{mesh}")
    for name in OPTIMIZERS
    for mesh in MESHES
]


@pytest.mark.world_size(2)
@pytest.mark.parametrize(("name", "mesh"), CASES)
def test_two_ranks_move_as_one(ranks, tmp_path, name, mesh):
    found = ranks.run(
        "tests.parallel.jobs:moved",
        2,
        tmp_path,
        optimizer=OPTIMIZERS[name],
        mesh=mesh,
        dtype="fp64",
        updates=4,
    )
    assert found[0]["error"] <= 1e-9
    assert found[0]["least"] > 0


@pytest.mark.world_size(2)
@pytest.mark.parametrize("name", ["lamb", "lars", "muon"])
def test_two_ranks_move_as_one_in_fp32(ranks, tmp_path, name):
    found = ranks.run(
        "tests.parallel.jobs:moved",
        2,
        tmp_path,
        optimizer=OPTIMIZERS[name],
        mesh={"shard": 2},
        dtype="fp32",
        updates=4,
    )
    assert found[0]["error"] <= 1e-4


@pytest.mark.world_size(2)
@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_a_matrix_that_begins_at_zero_knows_its_whole_size(ranks, tmp_path, name):
    found = ranks.run(
        "tests.parallel.jobs:moved",
        2,
        tmp_path,
        optimizer={**OPTIMIZERS[name], "lr": 4e-3},
        mesh={"shard": 2},
        dtype="fp64",
        updates=4,
        zeroed="bert.pooler.dense.weight",
    )
    assert found[0]["error"] <= 1e-9


@pytest.mark.world_size(4)
def test_copies_of_shared_parameters(ranks, tmp_path):
    found = ranks.run(
        "tests.parallel.jobs:moved", 4, tmp_path,
        optimizer=OPTIMIZERS["muon"], mesh={"replicate": 2, "shard": 2}, dtype="fp64", updates=3,
    )  # fmt: skip
    assert found[0]["error"] <= 1e-9
