"""A measured update among ranks, against each part's gradient computed on its own."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from bigbatch.data.packs import micro_batches
from bigbatch.data.random_parts import random_parts
from bigbatch.data.shares import chosen_of
from bigbatch.protocols import Cut, Rates, World
from bigbatch.rules.noise_scale import estimate
from bigbatch.step.noise import Noise
from tests.models import tiny
from tests.split import SMALL, parts_of, rows_of


def built(world: World | None = None, dtype: torch.dtype = torch.float64, **keys: Any):
    """A job of three updates, every one of them measured."""
    module = tiny("bert", num_labels=3, problem_type="single_label_classification", **SMALL).to(dtype)
    keys = {"scale": {"every": "1 updates"}, "plan": {"threads": 1}, **keys}
    return parts_of(module, rows_of("single", 200, longest=40), "single", micro_tokens=512, packing="packed",
                    world=world, **keys)  # fmt: skip


def updates(parts: Any, count: int = 2, *, measured: bool = True) -> list[dict[str, Any]]:
    """Loss, norm and what was measured in each update."""
    said, position = [], 0
    parts.module.train()
    for update in range(1, count + 1):
        batch = parts.batches.at(position, update)
        strategy = parts.strategy if measured else replace(parts.strategy, noise=Noise())
        (record,) = strategy.update(batch, strategy.pieces(batch, Cut(512, "packed")), Rates(lr=1e-3))
        position = record.samples
        found = parts.noise.meter.found if measured else {}
        said.append({"loss": record.loss, "norm": record.grad_norm,
                     "noise": {name: [each.trace, each.square] for name, each in found.items()}})  # fmt: skip
    return said


def oracle(parts: Any) -> dict[str, list[float]]:
    """The first update's noise from the gradients of its parts, each with a pass of its own."""
    batch, sizes = parts.batches.at(0, 1), parts.noise.sizes(parts.batches.at(0, 1))
    gradients = []
    denominators = parts.task.denominators(batch.targets)
    for chosen in random_parts(sizes, parts.recipe.seed.data, 1):
        parts.strategy.optimizer.zero_grad(set_to_none=True)
        pieces = micro_batches(chosen_of(batch, chosen), micro_tokens=16384,
                               packing="padded")  # fmt: skip
        parts.module.train()
        parts.strategy.executor.accumulate(1, pieces, denominators)
        gradients.append({name: copy.deepcopy(p.grad) for name, p in parts.module.named_parameters()
                          if p.grad is not None})  # fmt: skip
    parts.strategy.optimizer.zero_grad(set_to_none=True)
    total = sum(sizes)
    found = {}
    for name, wanted in (("whole", ""), ("embeddings", "embeddings"), ("block.1", "layer.1.")):
        names = [key for key in gradients[0] if wanted in key]
        squares = [sum(float(part[key].square().sum()) for key in names) for part in gradients]
        weighted = sum(square / (size / total) for square, size in zip(squares, sizes, strict=True))
        whole = sum(float(sum(part[key] for part in gradients).square().sum()) for key in names)
        each = estimate(weighted, whole, len(sizes), total)
        found[name] = [each.trace, each.square]
    return found


def measured(world: World, **keys: Any) -> list[dict[str, Any]]:
    """What one rank says of two measured updates."""
    return updates(built(world, **keys))
