"""What ranks do in tests: `(world, **JSON) -> JSON`, by name (see `tests.ranks`)."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.distributed_c10d import _set_pg_timeout

from bigbatch.build.parts import Parts
from bigbatch.infer.evaluate import evaluate
from bigbatch.model.adapters import linear_names
from bigbatch.model.anatomy import anatomy
from bigbatch.model.quantised import quantise
from bigbatch.model.tensors import named_tensors
from bigbatch.optim.groups import names_of
from bigbatch.optim.state import load_optimizer_state
from bigbatch.parallel import axes
from bigbatch.parallel.agree import Leaving, together
from bigbatch.parallel.gradients import Buckets
from bigbatch.parallel.group import GroupWorld, patience
from bigbatch.parallel.periodic import Meeting
from bigbatch.protocols import Rates, World
from bigbatch.records import Update
from bigbatch.step.apart import Apart
from bigbatch.store.checkpoints import CheckpointState, load_newest
from bigbatch.store.saving import save_checkpoint
from bigbatch.store.tensors import MODEL, load_weights, to_read, to_write
from tests.models import tiny, with_adapters
from tests.split import (
    SMALL,
    TOLERANCE,
    Trajectory,
    assert_equal,
    gradient_error,
    parts_of,
    rows_of,
    train_reference,
    train_split,
)

DTYPES = {"fp64": torch.float64, "fp32": torch.float32}


def _module(family: str, dtype: str) -> nn.Module:
    """`bert+lora`, `bert+dora`, `bert+4bit`: with adapters whose B is not zero."""
    family, _, adapter = family.partition("+")
    overrides = SMALL if family == "bert" else {}
    module = tiny(family, **overrides)
    if adapter in ("8bit", "4bit"):
        quantise(module, linear_names(anatomy(module)).blocks, adapter)
    return (with_adapters(module, r=2, alpha=2, dora=adapter == "dora") if adapter else module).to(
        DTYPES[dtype]
    )


def equality(
    world: World, *, family: str, dtype: str, micro_tokens: int, packing: str, updates: int = 20, **keys: Any
) -> dict[str, Any]:
    """Train among ranks; rank 0 holds it against the oracle. Weighted classes, uneven lengths."""
    module, rows = _module(family, dtype), rows_of("single", 300, seed=5)
    keys = {"loss": {"name": "cross_entropy", "class_weights": {"a": 2.0, "b": 0.5, "c": 1.0}}, **keys}
    parts = parts_of(module, rows, "single", micro_tokens=micro_tokens, packing=packing, world=world, **keys)
    found = train_split(parts, updates)
    pieces = [len(each) for each in found.pieces]
    if world.rank:
        return {"micro_batches": pieces}
    expected = train_reference(module, parts, rows, "single", updates)
    assert_equal(found, expected, DTYPES[dtype])
    return {"micro_batches": pieces, "error": _worst(found, expected), "bound": TOLERANCE[DTYPES[dtype]]}


def _worst(found: Trajectory, expected: Trajectory) -> float:
    return max(map(gradient_error, found.gradients, expected.gradients))


def evaluated(world: World, *, rows: int, packing: str = "packed") -> dict[str, Any]:
    """Figures of an evaluation that the ranks share, as text that shows every bit."""
    module = _module("bert", "fp32")
    parts = parts_of(
        module,
        rows_of("single", rows, seed=7),
        "single",
        micro_tokens=96,
        packing=packing,
        world=world,
        batch=8,
    )
    result = evaluate(
        parts.forward,
        parts.task,
        parts.train,
        parts.metrics,
        micro_tokens=96,
        packing=parts.packing,
        world=world,
        scored=("f1_macro", "loss"),
    )
    return {
        "scores": {name: scores.tobytes().hex() for name, scores in result.scores.items()},
        "loss": result.loss.hex(),
        "metrics": {name: repr(value) for name, value in result.metrics.items()},
    }


def words(world: World) -> dict[str, Any]:
    """What travels: values, counts, rows of uneven number."""
    rows = np.arange(world.rank * 2, dtype=np.float64).reshape(-1, 2) + world.rank
    return {
        "rank": world.rank,
        "gather": world.gather({"who": world.rank, "é": [None, 1.5]}),
        "share": world.share({"leader": world.rank}),
        "counts": world.sum_counts({"a": 0.1, "b": float(world.rank)}),
        "rows": [each.tolist() for each in world.gather_rows(rows)],
    }


def trouble(world: World, *, kind: str, rank: int) -> dict[str, Any]:
    """All ranks leave some work when one cannot do it."""
    from bigbatch.parallel.agree import OutOfMemory

    def work() -> int:
        if world.rank == rank:
            raise {
                "memory": OutOfMemory("no room"),
                "leave": Leaving(15, "told to"),
                "other": ValueError("bad"),
            }[kind]
        return world.rank

    try:
        return {"result": together(world, work)}
    except Exception as error:
        return {"raised": type(error).__name__, "text": str(error), "signal": getattr(error, "signal", None)}


def norms(
    world: World, *, family: str, dtype: str, micro_tokens: int, packing: str, updates: int, **keys: Any
) -> Any:
    """Gradient norms and the weights' own norm after some updates."""
    module, rows = _module(family, dtype), rows_of("single", 300, seed=5)
    parts = parts_of(module, rows, "single", micro_tokens=micro_tokens, packing=packing, world=world, **keys)
    found = train_split(parts, updates)
    return {
        "norms": found.norms,
        "weights": [float(parameter.detach().double().norm()) for parameter in parts.module.parameters()],
    }


def hashed(
    world: World, *, updates: int, dropout: float = 0.1, reproducible: str = "bitwise", **keys: Any
) -> Any:
    """SHA-256 of all parameters after some updates, and the losses as text that shows every bit."""
    module, rows = _module("bert", "fp32"), rows_of("single", 300, seed=5)
    parts = parts_of(
        module, rows, "single", micro_tokens=128, packing="packed", world=world,
        regularise={"dropout": dropout}, plan={"reproducible": reproducible}, **keys,
    )  # fmt: skip
    found = train_split(parts, updates)
    digest = hashlib.sha256()
    for parameter in parts.module.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return {"hash": digest.hexdigest(), "losses": [loss.hex() for loss in found.losses]}


def meshed_equality(
    world: World, *, mesh: dict[str, int], families: list[str], dtype: str, **keys: Any
) -> Any:
    """`equality` for several models, in a mesh."""
    given = {"dtype": dtype, "packing": "packed", "plan": {"mesh": mesh}, "micro_tokens": 256, **keys}
    return {family: equality(world, family=family, **given) for family in families}


def moved(
    world: World,
    *,
    optimizer: dict[str, Any],
    mesh: dict[str, int] | None,
    dtype: str,
    updates: int,
    zeroed: str | None = None,
) -> dict[str, float]:
    """How far weights that an optimiser moved among ranks are from those of one process: ||a - b|| / ||b||, worst tensor
    against the whole way, and how far it went; `zeroed` names a matrix that begins at zero.
    """
    module, rows = _module("bert", dtype), rows_of("single", 300, seed=5)
    if zeroed is not None:
        module.get_parameter(zeroed).data.zero_()
    given: dict[str, Any] = {"micro_tokens": 256, "packing": "packed", "optimizer": optimizer}
    plan = {"plan": {"mesh": mesh}} if mesh else {}
    parts = parts_of(module, rows, "single", world=world, **given, **plan)
    train_split(parts, updates)
    whole = parts.strategy.world.gathered(dict(parts.module.named_parameters()))
    if world.rank:
        return {}
    alone = parts_of(module, rows, "single", **given)
    train_split(alone, updates)
    start = dict(module.named_parameters())
    # The gradient of a key's bias is exactly zero: what is computed is the sign of nothing, which Lion follows.
    expected = {
        name: value
        for name, value in alone.module.named_parameters()
        if optimizer["name"] != "lion" or not name.endswith("key.bias")
    }
    errors = {name: float((whole[name] - value).norm()) for name, value in expected.items()}
    ways = {name: float((value - start[name]).norm()) for name, value in expected.items()}
    return {"error": max(errors.values()) / max(ways.values()), "least": min(ways.values())}


def apart(
    world: World, *, updates: int, replicas: int, period: int | str, dropout: float = 0.1, **keys: Any
) -> Any:
    """SHA-256 of the mean of all replicas after some updates, losses and norms to the bit, and bytes sent."""
    module, rows = _module("bert", "fp32"), rows_of("single", 300, seed=5)
    sync = {"replicas": replicas, "period": period, **keys.pop("sync", {})}
    parts = parts_of(
        module, rows, "single", micro_tokens=128, packing="packed", world=world,
        regularise={"dropout": dropout}, sync=sync, plan={"threads": 1}, **keys,
    )  # fmt: skip
    records = run_apart(parts, updates)
    assert isinstance(parts.strategy, Apart)
    replicas_here = parts.strategy.replicas
    parts.strategy.settle()
    digest = hashlib.sha256()
    for parameter in parts.module.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return {
        "hash": digest.hexdigest(),
        "losses": [record.loss.hex() for record in records],
        "norms": [record.grad_norm.hex() for record in records],
        "bytes": replicas_here.meeting.bytes_sent,
        "held": list(replicas_here.meeting.held),
        "saved": {name: list(value.shape) for name, value in replicas_here.state().items()},
    }


def run_apart(parts: Parts, updates: int, first: int = 1, position: int = 0) -> list[Update]:
    """Updates of replicas, as the loop has them."""
    records, tokens = [], 0
    for update in range(first, first + updates):
        batch = parts.batches.at(position, update)
        parts.module.train()
        rates = Rates(lr=parts.learning_rate(position, batch.samples), tokens_before=tokens)
        (record,) = parts.strategy.update(batch, parts.strategy.pieces(batch, parts.cut), rates)
        position, tokens = record.samples, record.tokens
        records.append(record)
    return records


def means(world: World, *, replicas: int, bucket_bytes: int) -> Any:
    """The mean of made-up replicas, to the bit, and how far apart they were."""
    random = np.random.default_rng(3)
    everyone = [
        [
            torch.from_numpy(random.normal(size=(5, 7))).float(),
            torch.from_numpy(random.normal(size=3)),
            torch.from_numpy(random.integers(0, 9, 4)),
            torch.from_numpy(random.normal(size=2)).bfloat16(),
        ]
        for _ in range(replicas)
    ]
    meeting = Meeting(world, replicas, bucket_bytes=bucket_bytes)
    found = meeting.mean([everyone[number] for number in meeting.held])
    return {
        "means": [value.double().tolist() for value in found.tensors],
        "dtypes": [str(value.dtype) for value in found.tensors],
        "drift": found.drift,
        "bytes": meeting.bytes_sent,
        "expected": {
            f"{number}/{place}": value.double().tolist()
            for number, own in enumerate(everyone)
            for place, value in enumerate(own)
        },
    }


def _hashes(parts: Any) -> dict[str, str]:
    """SHA-256 of every whole tensor of model and optimiser, by its checkpoint name."""
    world = parts.strategy.world
    model = {MODEL + name: tensor for name, tensor in named_tensors(parts.module)[0].items()}
    by_name = {name: parameter for parameter, name in names_of(parts.strategy.optimizer.param_groups).items()}
    states = {
        name: world.gathered_like(tensor, by_name[name.partition("/")[2]])
        for name, tensor in parts.strategy.state().tensors.items()
    }
    return {
        name: hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()
        for name, tensor in {**world.gathered(model), **states}.items()
    }


def _meshed(world: World, mesh: dict[str, int] | None) -> Any:
    plan = {"mesh": mesh} if mesh else {}
    rows = rows_of("single", 60, seed=5)
    return parts_of(
        _module("bert", "fp32"),
        rows,
        "single",
        micro_tokens=128,
        packing="packed",
        world=world,
        batch=20,
        plan=plan,
    )


def saved(world: World, *, root: str, mesh: dict[str, int] | None) -> dict[str, str]:
    """Train, save what each rank holds."""
    parts = _meshed(world, mesh)
    train_split(parts, 2)
    tensors, pieces, aliases = to_write(parts.module, parts.strategy.state(), parts.strategy.world)
    state = CheckpointState(step=2, tensors=tensors, pieces=pieces, aliases=aliases, run_id="r")
    save_checkpoint(Path(root), state, 2, world=parts.strategy.world)
    return _hashes(parts)


def loaded(world: World, *, root: str, mesh: dict[str, int] | None) -> dict[str, str]:
    """Put a checkpoint into a fresh model and optimiser, however it was cut."""
    parts = _meshed(world, mesh)
    found, notes = load_newest(
        Path(root), run_id="r", world=parts.strategy.world, wanted=to_read(parts.module, parts.strategy.world)
    )
    assert found is not None and notes == []
    load_weights(parts.module, found, parts.strategy.world)
    states = {name: tensor for name, tensor in found.tensors.items() if not name.startswith(MODEL)}
    load_optimizer_state(parts.strategy.optimizer, states)
    return _hashes(parts)


def compiled(world: World, *, updates: int, backend: str) -> dict[str, Any]:
    """Blocks that are compiled although their parameters are gathered by hooks: against one process, uncompiled."""
    from bigbatch.graph.compiled import compilations, compile_parts
    from bigbatch.model.anatomy import anatomy

    module, rows = _module("bert", "fp64"), rows_of("single", 300, seed=5)
    given: dict[str, Any] = {"micro_tokens": 256, "packing": "packed"}
    parts = parts_of(module, rows, "single", world=world, **given, plan={"mesh": {"shard": 2}})
    forward: Any = parts.forward
    compile_parts(forward, anatomy(parts.module), "blocks", backend=backend)
    blocks = {application.module for application in anatomy(parts.module).blocks}
    found = train_split(parts, updates)
    graphs = compilations()
    result = {
        "compiled": sum("forward" in vars(block) for block in blocks),
        "blocks": len(blocks),
        "graphs": graphs,
    }
    if world.rank:
        return result
    alone = parts_of(module, rows, "single", **given)
    expected = train_split(alone, updates)
    return {**result, "error": _worst(found, expected)}


def guest(world: World) -> dict[str, Any]:
    """In a group that the caller's program has opened: left twice, as a run that ends inside its `with` does."""
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    own = GroupWorld(ours=False)
    own.reduce_gradients([parameter])
    own.close()
    own.close()
    assert parameter.grad is not None
    return {"sum": parameter.grad.tolist(), "open": world.exchange([1.0])}


def openings(world: World) -> list[int]:
    """The numbers under which two meshes of one process, one after the other, watch over their groups."""
    found: list[int] = []
    axes.Alarm = lambda store, number, *_: found.append(number)  # type: ignore[assignment, misc]
    for _ in range(2):
        groups = axes.AxisGroups(("shard",), (world.size,), "cpu")
        groups._backend = "nccl"
        groups._begin()
    return found


def patient(world: World) -> list[float]:
    """Seconds that each group beside the words waits for another rank: of gradients, of an axis, of one opened anew."""
    _set_pg_timeout(timedelta(seconds=77))
    own = GroupWorld(ours=False)
    parameter = nn.Parameter(torch.ones(2))
    own.reduce_gradients([parameter])
    found = [patience(own._for_gradients)]
    own.close()
    groups = axes.AxisGroups(("shard",), (world.size,), "cpu")
    found.append(patience(groups.mesh.get_group("shard")))
    groups.close()
    groups.open()
    found.append(patience(groups.mesh.get_group("shard")))
    return [each.total_seconds() for each in found]


def views(world: World) -> list[list[float]]:
    """Sums of gradients, the first of which to travel lies alone in its bucket and in memory of somebody else."""
    large = nn.Parameter(torch.zeros(4))
    parameters = [*(nn.Parameter(torch.zeros(2)) for _ in range(16)), large]
    buckets = Buckets(parameters, None, bucket_bytes=16)
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, float(number))
    large.grad = torch.arange(8.0)[:4]
    buckets.finish()
    return [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None]
