"""Images among ranks: `(world, **JSON) -> JSON`, by name (see `tests.ranks`)."""

from __future__ import annotations

from typing import Any

import torch

from bigbatch.protocols import World
from tests.pictures import image_parts, image_rows, tiny_vision, train_oracle
from tests.split import TOLERANCE, assert_equal, gradient_error, train_split

ROWS = image_rows(90)


def equality(world: World, *, dtype: str, mesh: dict[str, int], updates: int = 4) -> dict[str, Any]:
    """Changed images, weighted classes, batches across epochs; rank 0 holds them against the oracle."""
    kind = {"fp64": torch.float64, "fp32": torch.float32}[dtype]
    module = tiny_vision("vit").to(kind)
    weights = {"loss": {"class_weights": {"a": 0.3, "b": 2.0, "c": 1.0}}}
    parts = image_parts(module, ROWS, micro_tokens=85, world=world, plan={"mesh": mesh}, **weights)
    found = train_split(parts, updates)
    pieces = [len(each) for each in found.pieces]
    if world.rank:
        return {"micro_batches": pieces}
    expected = train_oracle(module, parts, ROWS, updates)
    assert_equal(found, expected, kind)
    worst = max(map(gradient_error, found.gradients, expected.gradients))
    return {"micro_batches": pieces, "error": worst, "bound": TOLERANCE[kind]}
