"""What ranks do in tests of other gradients: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bigbatch.protocols import World
from tests.models import tiny
from tests.reference import textbook_fgm, textbook_sam
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

ROWS = rows_of("single", 200, seed=3, longest=40)
LOSS = {"class_weights": {"a": 0.3, "b": 2.0, "c": 1.0}}
ORACLES = {"sam": textbook_sam, "fgm": textbook_fgm}
DTYPES = {"fp64": torch.float64, "fp32": torch.float32}


def module_of(dtype: torch.dtype, **config: Any) -> Any:
    """A tiny classifier."""
    return tiny("bert", num_labels=3, **{**SMALL, **config}).to(dtype)


def parts_with(module: Any, gradient: Any, *, micro_tokens: int = 512, packing: str = "packed", **keys: Any):
    """The rows, with weighted classes, to be trained with this gradient."""
    keys = {"loss": LOSS, "gradient": gradient, **keys}
    return parts_of(module, ROWS, "single", micro_tokens=micro_tokens, packing=packing, **keys)


def trained(parts: Any, updates: int) -> Trajectory:
    """The gradients that move the weights: of sam the second of the two that the world sums."""
    found = train_split(parts, updates)
    each = len(found.gradients) // updates
    return replace(found, gradients=found.gradients[each - 1 :: each])


def oracle(module: Any, parts: Any, gradient: dict[str, Any], updates: int) -> Trajectory:
    """The same updates, on whole padded batches."""
    options = {name: value for name, value in gradient.items() if name != "name"}
    rule = partial(ORACLES[gradient["name"]], **options)
    return train_reference(module, parts, ROWS, "single", updates, gradient=rule)


def equality(
    world: World, *, gradient: dict[str, Any], dtype: str = "fp64", updates: int = 2, **keys: Any
) -> dict[str, Any]:
    """Train among ranks; rank 0 holds it against the oracle."""
    module = module_of(DTYPES[dtype])
    parts = parts_with(module, gradient, micro_tokens=256, world=world, **keys)
    found = trained(parts, updates)
    if world.rank:
        return {}
    expected = oracle(module, parts, gradient, updates)
    if not world.divides:
        assert_equal(found, expected, DTYPES[dtype])
    assert min(map(len, found.pieces)) > 1
    errors = map(gradient_error, found.gradients, expected.gradients)
    return {"error": max(errors), "bound": TOLERANCE[DTYPES[dtype]]}


def bits(world: World, *, gradient: dict[str, Any]) -> list[str]:
    """Losses and norms of some updates, dropout included, as text that shows every bit."""
    module = module_of(torch.float32, hidden_dropout_prob=0.1)
    plan = {"reproducible": "bitwise", "micro_tokens": 256}
    parts = parts_with(module, gradient, micro_tokens=256, world=world, plan=plan)
    found = train_split(parts, 3)
    return [number.hex() for number in (*found.losses, *found.norms)]
