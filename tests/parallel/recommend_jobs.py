"""What ranks do in tests of recommendation: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from typing import Any

import torch

from bigbatch.infer.evaluate import evaluate
from bigbatch.protocols import World
from tests.recommendations import histories, recommend_parts, recommender, train_recommend_reference
from tests.split import assert_equal, gradient_error, train_split

ROWS = histories(40)


def equality(world: World, *, dtype: str, **keys: Any) -> dict[str, Any]:
    """Train among ranks; rank 0 holds it against the oracle. Figures of an evaluation, too, with every bit."""
    module = recommender().to(getattr(torch, dtype))
    parts = recommend_parts(module, ROWS, micro_tokens=64, packing="packed", world=world, **keys)
    trained = train_split(parts, 2)
    evaluated = evaluate(
        parts.forward, parts.task, parts.train, micro_tokens=64, packing="packed", world=world
    )
    figures = {"loss": evaluated.loss, **evaluated.metrics}
    found: dict[str, Any] = {"figures": {name: float(value or 0).hex() for name, value in figures.items()}}
    if world.rank == 0:
        expected = train_recommend_reference(module, parts, ROWS, 2)
        if not world.divides:
            assert_equal(trained, expected, getattr(torch, dtype))
        pairs = zip(trained.gradients, expected.gradients, strict=True)
        found["error"] = max(gradient_error(*pair) for pair in pairs)
    return found
