"""What ranks do in tests of preferences: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bigbatch.infer.evaluate import evaluate
from bigbatch.protocols import World
from tests.preferences import decoder, preference_parts, preferences, scorer, train_preference_reference
from tests.split import TOLERANCE, assert_equal, gradient_error, train_split

ROWS = [{**row, "margin": number % 3 / 2} for number, row in enumerate(preferences(60))]
DTYPES = {"fp64": torch.float64, "fp32": torch.float32}


def equality(
    world: World, *, place: str, dtype: str, updates: int = 3, told: Any = None, **keys: Any
) -> dict[str, Any]:
    """Train among ranks, the reference too; rank 0 holds it against the oracle."""
    rewarded = "centring" in (told or {})
    module = scorer() if rewarded else decoder("llama", tie_word_embeddings=False)
    module = module.to(DTYPES[dtype])
    parts = preference_parts(module, ROWS, Path(place), micro_tokens=96, world=world, **keys)
    found = train_split(parts, updates)
    if world.rank:
        return {}
    expected = train_preference_reference(module, parts, ROWS, updates, **(told or {}))
    if not world.divides:
        assert_equal(found, expected, DTYPES[dtype])
    gradients = zip(found.gradients, expected.gradients, strict=True)
    return {
        "error": max(gradient_error(*pair) for pair in gradients),
        "bound": TOLERANCE[DTYPES[dtype]],
        "pieces": min(found.micro_batches),
    }


def evaluated(world: World, *, place: str) -> dict[str, Any]:
    """Figures of an evaluation and the reference that the ranks share, as text that shows every bit."""
    keys = {"micro_tokens": 96, "packing": "packed", "world": world}
    parts = preference_parts(decoder(), ROWS, Path(place), **keys)
    train_split(parts, 2)
    table = preference_parts(parts.module, ROWS, Path(place), **keys).train  # read back
    assert bool((table.extras["reference"] == parts.train.extras["reference"]).all())
    found = evaluate(parts.forward, parts.task, _fixed(parts), micro_tokens=96, packing="packed", world=world)
    return {"loss": found.loss.hex(), **{name: repr(value) for name, value in found.metrics.items()}}


def _fixed(parts: Any) -> Any:
    return parts.task.fixed(parts.train)
