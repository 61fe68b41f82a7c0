"""A dry run says what real ranks hold and send."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bigbatch.plan.dry import DryRun
from bigbatch.recipe.load import load_recipe
from bigbatch.run.dry import dry_run
from tests.run.dry_jobs import write_job

JOB = "tests.run.dry_jobs:looked_at"
WAYS = {
    "copies": (2, []),
    "more ranks than the batch fills": (3, ["batch=2"]),
    "shard": (2, ["plan.mesh.shard=2"]),
    "hybrid": (4, ["plan.mesh.replicate=2", "plan.mesh.shard=2", "optimizer.name=lamb"]),
    "tensor": (2, ["plan.mesh.tensor=2"]),
    "shard and tensor": (4, ["plan.mesh.shard=2", "plan.mesh.tensor=2"]),
    "bitwise": (2, ["plan.reproducible=bitwise"]),
    "replicas": (2, ["sync.replicas=4", "sync.period=3"]),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_job(tmp_path_factory.mktemp("dry"))


def looked_at(recipe: Path, ranks: int | None, changes: list[str]) -> DryRun:
    return dry_run(load_recipe(recipe, changes, environ={}), ranks, lambda text: None)[1]


@pytest.mark.world_size(4)
@pytest.mark.parametrize("way", WAYS)
# torch 2.13 has another name for what plan.reproducible: bitwise sends.
@pytest.mark.filterwarnings("ignore:.*all_gather_into_tensor.*:FutureWarning")
def test_it_is_what_real_ranks_do(ranks, tmp_path, recipe, way):
    count, changes = WAYS[way]
    real = ranks.run(JOB, count, tmp_path, recipe=str(recipe), changes=changes)[0]
    imagined: dict[str, Any] = asdict(looked_at(recipe, count, changes))
    for name in ("ranks", "arrangement", "data_ranks", "pieces", "micro_batches", "micro_tokens", "period"):
        assert imagined[name] == real[name], name
    assert [*imagined["update"]] == real["update"] and real["update"]
    assert [*imagined["meeting"]] == real["meeting"]
    assert bool(real["meeting"]) == (way == "replicas")
    print(way, imagined["peak"], real["peak"])
