"""What ranks do in tests: `(world, **JSON) -> JSON`, by name (see `tests.ranks`)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import nn

from bigbatch.infer.evaluate import evaluate
from bigbatch.protocols import World
from bigbatch.step.together import Leaving, together
from tests.models import tiny
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
    overrides = SMALL if family == "bert" else {}
    return tiny(family, **overrides).to(DTYPES[dtype])


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
    )
    return {
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
    from bigbatch.step.executor import OutOfMemory

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
