"""Boxes among ranks: `(world, **JSON) -> JSON`, by name (see `tests.ranks`)."""

from __future__ import annotations

from typing import Any

import torch

from bigbatch.protocols import World
from tests.detections import FAMILIES, box_rows, detect_parts, held, train_oracle
from tests.split import TOLERANCE, assert_equal, gradient_error, train_split

ROWS = box_rows(45)


def equality(
    world: World, *, dtype: str, mesh: dict[str, int], updates: int = 3, family: str = "yolos"
) -> dict[str, Any]:
    """Moved boxes, batches across epochs; rank 0 holds them against transformers' loss of whole batches."""
    kind = {"fp64": torch.float64, "fp32": torch.float32}[dtype]
    module = FAMILIES[family]().to(kind)
    tokens = {"yolos": 115, "detr": 20, "rt_detr": 30}[family]  # of five images
    parts = detect_parts(module, ROWS, micro_tokens=tokens, world=world, plan={"mesh": mesh})
    found = train_split(parts, updates)
    pieces = [len(each) for each in found.pieces]
    if world.rank:
        return {"micro_batches": pieces}
    expected = train_oracle(held(module), parts, ROWS, updates)
    assert_equal(found, expected, kind)
    worst = max(map(gradient_error, found.gradients, expected.gradients))
    return {"micro_batches": pieces, "error": worst, "bound": TOLERANCE[kind]}
