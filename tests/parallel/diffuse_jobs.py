"""Images that are drawn, among ranks: `(world, **JSON) -> JSON`, by name (see `tests.ranks`)."""

from __future__ import annotations

from typing import Any

import torch

from bigbatch.protocols import World
from tests.drawings import SIZE, drawing_parts, tiny_dit, train_drawing_oracle
from tests.pictures import image_rows
from tests.split import TOLERANCE, assert_equal, gradient_error, train_split

ROWS = image_rows(90, size=SIZE)


def equality(world: World, *, dtype: str, mesh: dict[str, int], updates: int = 3) -> dict[str, Any]:
    """Batches across epochs; rank 0 holds them against the oracle."""
    kind = {"fp64": torch.float64, "fp32": torch.float32}[dtype]
    module = tiny_dit().to(kind)
    parts = drawing_parts(module, ROWS, micro_tokens=28, world=world, plan={"mesh": mesh})
    found = train_split(parts, updates)
    pieces = [len(each) for each in found.pieces]
    if world.rank:
        return {"micro_batches": pieces}
    expected = train_drawing_oracle(module, parts, ROWS, updates)
    assert_equal(found, expected, kind)
    worst = max(map(gradient_error, found.gradients, expected.gradients))
    return {"micro_batches": pieces, "error": worst, "bound": TOLERANCE[kind]}
