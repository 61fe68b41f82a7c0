"""A dry run says what real ranks hold and send."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

from bigbatch.build.dry import dry_run
from bigbatch.build.inputs import Live, read_inputs
from bigbatch.build.live import live_task
from bigbatch.build.ready import ready_model
from bigbatch.errors import DoesNotFit, UsageError
from bigbatch.model.anatomy import model_facts
from bigbatch.plan.dry import DryRun, dry_lines
from bigbatch.plan.memory import Division, predict_memory
from bigbatch.recipe.load import load_recipe
from tests.build.dry_jobs import write_job

JOB = "tests.build.dry_jobs:looked_at"
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


@pytest.mark.slow
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
    # Numbers that ranks tell each other may take a few bytes more where they stand in for none.
    for name in ("total_bytes", "model_bytes", "lasting_bytes"):
        assert imagined["peak"][name] == pytest.approx(real["peak"][name], abs=64), name
    assert imagined["peak"]["phase"] == real["peak"]["phase"]


def test_a_thousand_ranks_on_one_machine(recipe):
    values = values_of(recipe)
    copies = looked_at(recipe, 1024, [])
    travelled = {(one.collective, one.axis): one for one in copies.update}
    # Each gradient once, and a byte for each parameter: whether anybody has one.
    assert travelled["all_reduce", "all ranks"].payload_bytes == 4 * values + parameters_of(recipe)
    assert (copies.ranks, copies.data_ranks, copies.pieces) == (1024, 1024, 32)

    shared = looked_at(recipe, None, ["plan.mesh.replicate=128", "plan.mesh.shard=8"])
    assert shared.ranks == 1024 and shared.arrangement == "replicate 128 x shard 8 x tensor 1"
    travelled = {(one.collective, one.axis): one for one in shared.update}
    scattered = travelled["reduce_scatter", "shard"]
    # Parts are of equal size: a parameter's rows are filled up to a multiple of 8.
    assert 4 * values <= scattered.payload_bytes < 1.2 * 4 * values
    assert travelled["all_reduce", "replicate"].payload_bytes == scattered.payload_bytes // 8
    assert shared.peak.model_bytes < copies.peak.model_bytes / 6
    assert shared.peak.lasting_bytes < copies.peak.lasting_bytes / 6


def values_of(recipe: Path) -> int:
    return sum(tensor.numel() for tensor in weights_of(recipe).values())


def parameters_of(recipe: Path) -> int:
    return len(weights_of(recipe))


def weights_of(recipe: Path) -> dict[str, Any]:
    return load_file(recipe.parent / "model" / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        ["plan.precision=bf16", "plan.recompute=blocks"],
        ["plan.precision=fp16"],
        ["plan.attention=flash"],
        ["optimizer.name=sgd"],
        ["optimizer.name=lamb"],
        ["optimizer.name=lars"],
        ["sync.replicas=8", "sync.period=2", "sync.outer=diloco"],
        ["sync.replicas=4", "sync.period=auto"],
    ],
    ids=lambda changes: changes[0],
)
def test_other_formats_and_optimisers_have_shapes_too(recipe, changes):
    found = looked_at(recipe, 4, changes)
    assert found.peak.model_bytes >= 4 * values_of(recipe)
    assert bool(found.meeting) == ("sync" in changes[0])
    assert any("flash needs an accelerator" in note for note in found.notes) == ("flash" in changes[0])


def test_the_recipe_says_how_many_or_somebody_must(recipe):
    assert looked_at(recipe, None, ["plan.ranks=2"]).ranks == 2
    with pytest.raises(UsageError, match="--ranks N"):
        looked_at(recipe, None, [])
    with pytest.raises(UsageError, match="needs 8 ranks, found 4"):
        looked_at(recipe, 4, ["plan.mesh.shard=8"])
    with pytest.raises(UsageError, match="1, 2, 4, 8, … ranks"):
        looked_at(recipe, 3, ["plan.reproducible=bitwise"])
    with pytest.raises(UsageError, match="3 ranks do not divide"):
        looked_at(recipe, 3, ["plan.mesh.tensor=3"])
    with pytest.raises(UsageError, match="start at most 2"):
        looked_at(recipe, 4, ["sync.replicas=2"])
    # The imagined group is gone each time.
    assert not dist.is_initialized()


def test_what_does_not_fit_the_ranks_memory_is_said(recipe):
    with pytest.raises(DoesNotFit, match=r"rank 0 take .* but plan\.memory allows 100\.0 KiB"):
        looked_at(recipe, 2, ["plan.memory=100 KiB"])
    assert looked_at(recipe, 2, ["plan.memory=1 MiB"]).peak.total_bytes < 2**20


def test_the_plan_beside_it_speaks_of_no_machine(recipe):
    parts, found = dry_run(load_recipe(recipe, [], environ={}), 8, lambda text: None)
    assert parts.plan.value("ranks") == 8 and parts.plan.choices["ranks"].reason == "imagined by the dry run"
    assert parts.plan.value("device") == "any"
    assert not {"threads", "peak_memory_bytes", "accumulation", "recompute"} & parts.plan.choices.keys()
    assert dry_lines(found)[0].startswith("dry run: rank 0 of 8 (replicate 8)")


@pytest.mark.parametrize(
    ("ranks", "mesh"),
    [(2, {"shard": 2}), (8, {"shard": 8}), (4, {"replicate": 2, "shard": 2}), (2, {"tensor": 2})],
    ids=str,
)
def test_the_memory_that_is_predicted_for_parts_is_what_they_take(recipe, ranks, mesh):
    """Weights outweigh activations, so what is compared is the division."""
    changes = [
        "model.init=random",
        "model.config.hidden_size=256",
        "model.config.intermediate_size=1024",
        "model.config.num_hidden_layers=6",
        "plan.micro_tokens=64",
        *(f"plan.mesh.{axis}={size}" for axis, size in mesh.items()),
    ]
    parts, found = dry_run(load_recipe(recipe, changes, environ={}), ranks, lambda text: None)
    predicted = predict_memory(
        model_facts_of(parts),
        micro_tokens=found.micro_tokens,
        optimizer_state_multiple=2.0,
        division=Division(shard=mesh.get("shard", 1), tensor=mesh.get("tensor", 1)),
    )
    tensors = predicted.needed_bytes - predicted.process
    assert 0.9 * found.peak.total_bytes < tensors < 1.5 * found.peak.total_bytes


def model_facts_of(parts: Any) -> Any:
    """Of the whole model, whose tensors have other shapes by now."""
    recipe = parts.recipe
    task = live_task(recipe, Live())
    ready = ready_model(recipe, task, read_inputs(recipe, task, Live()), Live(), "cpu", lambda text: None)
    return model_facts(ready.module)
