from __future__ import annotations

from itertools import pairwise

import pytest

from bigbatch.store.checkpoints import read_checkpoint

CUTS = [
    (1, None),
    (2, None),
    (2, {"shard": 2}),
    (2, {"tensor": 2}),
    (4, {"shard": 2, "tensor": 2}),
    (3, {"shard": 3}),
]


@pytest.mark.world_size(4)
@pytest.mark.parametrize(("writer", "reader"), list(pairwise([*CUTS, CUTS[0]])))
def test_saved_by_some_ranks_and_loaded_by_others(ranks, tmp_path, writer, reader):
    """Copies, shards, products in parts, both, uneven shards: the same bits in model and optimiser."""
    folder = str(tmp_path / "checkpoints")
    (size, mesh), (other_size, other_mesh) = writer, reader
    before = ranks.run("tests.parallel.jobs:saved", size, tmp_path, root=folder, mesh=mesh)
    after = ranks.run("tests.parallel.jobs:loaded", other_size, tmp_path, root=folder, mesh=other_mesh)
    assert all(each == before[0] for each in [*before, *after])
    found = read_checkpoint(tmp_path / "checkpoints" / "step-000002")
    assert set(found.tensors) == set(before[0])
    files = {file.name.split("-")[1] for file in (tmp_path / "checkpoints/step-000002").glob("*.safetensors")}
    assert len(files) == size  # every rank wrote
