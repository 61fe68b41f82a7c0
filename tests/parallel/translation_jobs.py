"""What ranks do in tests of translation: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from typing import Any

import torch

from bigbatch.infer.evaluate import evaluate
from bigbatch.infer.generate import written
from bigbatch.protocols import World
from tests.models import tiny_pair
from tests.split import TOLERANCE, assert_equal, gradient_error, train_split, worst_tensor
from tests.translation import pairs, train_translation_reference, translation_parts

ROWS = pairs(90)
DTYPES = {"fp64": torch.float64, "fp32": torch.float32}


def equality(
    world: World, *, family: str, dtype: str = "fp64", updates: int = 3, **keys: Any
) -> dict[str, Any]:
    """Train among ranks; rank 0 holds it against the oracle."""
    module = tiny_pair(family, init_std=0.05).to(DTYPES[dtype])
    parts = translation_parts(module, ROWS, micro_tokens=256, packing="packed", world=world, **keys)
    found = train_split(parts, updates)
    if world.rank:
        return {}
    expected = train_translation_reference(module, parts, ROWS, updates)
    if not world.divides:
        assert_equal(found, expected, DTYPES[dtype])
    gradients = list(zip(found.gradients, expected.gradients, strict=True))
    bound = TOLERANCE[DTYPES[dtype]]
    return {
        "error": max(gradient_error(*pair) for pair in gradients),
        "bound": bound,
        "tensor": max(worst_tensor(*pair, bound)[1] for pair in gradients),
    }


def evaluated(world: World, *, family: str, metrics: list[str], **keys: Any) -> dict[str, Any]:
    """Figures of an evaluation that the ranks share, as text that shows every bit, and the texts that were written."""
    fields = {"initializer_factor": 2.0} if family == "t5" else {}
    module = tiny_pair(family, **fields).double()
    task = {"name": "seq2seq", "target_max_length": 7}
    parts = translation_parts(
        module,
        pairs(30, longest=8),
        micro_tokens=64,
        packing="padded",
        world=world,
        task=task,
        metrics=metrics,
        batch=10,
        **keys,
    )
    found = evaluate(parts.forward, parts.task, parts.train, micro_tokens=16, packing="padded", world=world)
    texts = written(parts.forward, parts.task, parts.train, micro_tokens=16, world=world)
    figures = {"loss": found.loss, **found.metrics}
    return {"texts": texts, **{name: f"{value:.12g}" for name, value in figures.items()}}
