"""What ranks do in tests of long inputs: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from typing import Any

import torch

from bigbatch.protocols import World
from tests.language import documents
from tests.models import tiny
from tests.split import SMALL, gradient_error, parts_of, train_split

CONFIG = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 64}
MODELS = {"local": {"attention": {"pattern": "local", "window": 5}}, "memory": {"memory": 7}}


def equality(world: World, **keys: Any) -> list[list[Any]]:
    """Of each model and dtype the largest gradient error of three updates, against one process, padded and whole. One
    model after the other in the same group.
    """
    return [
        [name, dtype, _error(world, model, dtype, **keys)]
        for name, model in MODELS.items()
        for dtype in ("float64", "float32")
    ]


def _error(world: World, model: dict[str, Any], dtype: str, **keys: Any) -> float:
    module = tiny("llama", head="causal", **CONFIG).to(getattr(torch, dtype))
    options: dict[str, Any] = {
        "model": {"name": None, **model},
        "task": {"name": "clm"},
        "data": {"train": [], "max_length": 24},
        "batch": 40,
    }
    parts = parts_of(
        module,
        documents(60),
        "language",
        micro_tokens=200,
        packing="packed",
        world=world,
        **{**options, **keys},
    )
    found = train_split(parts, 3)
    if world.rank:
        return 0.0
    whole = parts_of(module, documents(60), "language", micro_tokens=4096, packing="padded", **options)
    expected = train_split(whole, 3)
    return max(map(gradient_error, found.gradients, expected.gradients))
