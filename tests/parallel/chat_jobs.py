"""What ranks do in tests of conversations: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from typing import Any

import torch

from bigbatch.build.parts import Parts
from bigbatch.infer.evaluate import evaluate
from bigbatch.protocols import World
from tests.chats import chat_model, chat_parts, talk, train_chat_reference
from tests.split import assert_equal, gradient_error, train_split

ROWS = talk(60, seed=1, most_turns=2)
DTYPES = {"fp64": torch.float64, "fp32": torch.float32}


def equality(world: World, *, dtype: str, updates: int = 2, **keys: Any) -> dict[str, Any]:
    """Figures of the untrained model; then train among ranks, which rank 0 holds against the oracle."""
    module = chat_model().to(DTYPES[dtype])
    parts = chat_parts(module, ROWS, micro_tokens=200, packing="packed", world=world, **keys)
    own = parts.strategy.world  # of a divided model the mesh's
    figures = {} if own.divides else figures_of(parts, own)
    found = train_split(parts, updates)
    if world.rank:
        return {}
    expected = train_chat_reference(module, parts, ROWS, updates)
    if not own.divides:
        assert_equal(found, expected, DTYPES[dtype])
    pairs = zip(found.gradients, expected.gradients, strict=True)
    return {
        "error": max(gradient_error(*pair) for pair in pairs),
        "pieces": min(found.micro_batches),
        **figures,
    }


def figures_of(parts: Parts, world: World | None = None) -> dict[str, Any]:
    """Loss and metrics, as text that shows every bit."""
    found = evaluate(parts.forward, parts.task, parts.train, micro_tokens=200, packing="packed", world=world)
    return {"loss": (found.loss or 0.0).hex(), **{name: repr(value) for name, value in found.metrics.items()}}
