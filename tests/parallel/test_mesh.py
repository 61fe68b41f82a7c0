"""Shared parameters and shared products give the numbers of one process, in every arrangement that fits."""

from __future__ import annotations

import pytest

from tests.ranks import RankFailed

JOB = "tests.parallel.jobs:meshed_equality"
SHARED = [{"shard": 2}, {"shard": 3}, {"shard": 4}, {"replicate": 2, "shard": 2}]
DIVIDED = [{"tensor": 2}, {"replicate": 2, "tensor": 2}, {"shard": 2, "tensor": 2}]


def size_of(mesh: dict[str, int]) -> int:
    size = 1
    for ranks in mesh.values():
        size *= ranks
    return size


@pytest.mark.world_size(4)
@pytest.mark.parametrize(
    ("mesh", "dtype"),
    [
        pytest.param(
            mesh,
            dtype,
            marks=[pytest.mark.stress] if dtype == "fp32" and size_of(mesh) > 2 else [],
            id=f"{mesh}-{dtype}",
        )
        for mesh in SHARED + DIVIDED
        for dtype in ("fp64", "fp32")
    ],
)
def test_updates_equal_the_whole_batch(ranks, tmp_path, mesh, dtype):
    # Products that are shared take a message each: few, long micro-batches.
    given = {"updates": 6, "micro_tokens": 1024} if "tensor" in mesh else {"updates": 8}
    found = ranks.run(JOB, size_of(mesh), tmp_path, mesh=mesh, families=["bert"], dtype=dtype, **given)
    assert found[0]["bert"]["error"] <= found[0]["bert"]["bound"]


@pytest.mark.world_size(2)
@pytest.mark.parametrize("mesh", [{"shard": 2}, {"tensor": 2}], ids=str)
def test_products_by_onednn(ranks, tmp_path, mesh):
    """Shared weights are whole when they are multiplied; divided ones multiply as they always do."""
    given = {"updates": 2, "micro_tokens": 1024, "products": "onednn"}
    found = ranks.run(JOB, 2, tmp_path, mesh=mesh, families=["bert"], dtype="fp32", **given)
    assert found[0]["bert"]["error"] <= found[0]["bert"]["bound"]


@pytest.mark.world_size(2)
@pytest.mark.parametrize("mesh", [{"shard": 2}, {"tensor": 2}], ids=str)
def test_other_families(ranks, tmp_path, mesh):
    families = ["roberta", "distilbert", "llama", "qwen2"] + (
        ["modernbert", "gpt2"] if "shard" in mesh else []
    )
    found = ranks.run(
        JOB, 2, tmp_path, mesh=mesh, families=families, dtype="fp64", updates=2, micro_tokens=1024
    )
    assert all(each["error"] <= each["bound"] for each in found[0].values())


@pytest.mark.world_size(2)
@pytest.mark.parametrize("family", ["modernbert", "gpt2"])
def test_blocks_whose_products_cannot_be_told_apart_are_refused(ranks, tmp_path, family):
    with pytest.raises(RankFailed, match=r"plan\.mesh\.tensor"):
        ranks.run(JOB, 2, tmp_path, mesh={"tensor": 2}, families=[family], dtype="fp32", updates=1)


@pytest.mark.world_size(2)
def test_another_number_of_ranks_is_refused(ranks, tmp_path):
    with pytest.raises(RankFailed, match="replicate 1 x shard 4 x tensor 1 needs 4 ranks, found 2"):
        ranks.run(JOB, 2, tmp_path, mesh={"shard": 4}, families=["bert"], dtype="fp32", updates=1)


@pytest.mark.world_size(2)
def test_blocks_whose_parameters_are_shared_are_compiled(ranks, tmp_path):
    """FSDP's hooks stay around a block; its code is compiled, and the numbers are those of one process."""
    found = ranks.run("tests.parallel.jobs:compiled", 2, tmp_path, updates=2, backend="eager")
    assert all(each["compiled"] == each["blocks"] == 2 and each["graphs"] > 0 for each in found)
    assert found[0]["error"] <= 1e-9
