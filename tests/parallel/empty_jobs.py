"""What ranks do with samples that have nothing to learn from: `(world, **JSON) -> JSON`, by name (see `tests.ranks`)."""

from __future__ import annotations

from typing import Any

import torch

from bigbatch.infer.evaluate import evaluate
from bigbatch.protocols import World
from tests.language import MASK, documents, language_parts, model_of, train_language_reference
from tests.split import assert_equal, train_split

MLM = {"name": "mlm", "mask_id": MASK}
ROWS = [
    row
    for each in documents(12, seed=3, longest=20)
    for row in (each, {"input_ids": [MASK] * 7}, {"input_ids": [MASK] * 3}, {"input_ids": [MASK] * 5})
]
"""Three of four have no token to predict."""


def scarce(world: World, *, mesh: dict[str, int], packing: str, **keys: Any) -> dict[str, Any]:
    """Two updates of five samples; then an evaluation. Rank 0 holds the updates against the oracle."""
    module = model_of("mlm").double()
    given = {"packing": packing, "micro_tokens": 8, "batch": 5, "plan": {"mesh": mesh}, **keys}
    parts = language_parts(module, ROWS, MLM, world=world, **given)
    units = [len(parts.batches.at(position, 1).targets.weights) for position in (0, 5)]
    found = train_split(parts, 2)
    parts.strategy.settle()
    fixed = parts.task.fixed(parts.train)
    result = evaluate(
        parts.forward, parts.task, fixed, micro_tokens=8, packing=parts.packing, world=parts.strategy.world
    )
    pieces = sum(len(each) for each in found.pieces)
    if not world.rank:
        assert_equal(found, train_language_reference(module, parts, ROWS, MLM, 2), torch.float64)
    return {"units": units, "pieces": pieces, "loss": result.loss}
