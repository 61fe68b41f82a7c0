"""What ranks do in tests of matching: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bigbatch.build.derived import Kept, derived
from bigbatch.infer.evaluate import evaluate
from bigbatch.protocols import World
from bigbatch.store.identity import Fingerprint, write_identity
from tests.matching import base_of, guide_at, match_parts, pairs, scored_pairs, train_match_reference
from tests.split import TOLERANCE, assert_equal, gradient_error, train_split

ROWS = pairs(90)
SCORED = scored_pairs(90)


def equality(world: World, *, place: str, updates: int = 3, told: Any = None, **keys: Any) -> dict[str, Any]:
    """Train among ranks; rank 0 holds it against the oracle."""
    module = base_of().double()
    where = Path(place) / str(world.rank)
    rows = SCORED if told and "teacher" in told else ROWS
    if told and "judged" in told:
        guide = Path(place) / "guide"
        told = {**told, "judged": None if world.rank else guide_at(guide)[1]}
        world.barrier()
        keys["task"] = {"false_negatives": {"margin": told["margin"], "guide": str(guide)}}
    parts = match_parts(module, rows, where, micro_tokens=64, packing="packed", world=world, **keys)
    if parts.task.needs:  # computed together, written, and read back by all
        if not world.rank:
            write_identity(where, Fingerprint(what={}), run_id="a")
        first = derived(parts, Kept(where, "a")).tables["train"].extras["guide"]
        parts.data = derived(parts, Kept(where, "a"))
        assert np.array_equal(first, parts.tables["train"].extras["guide"])
    found = train_split(parts, updates)
    if world.rank:
        return {}
    expected = train_match_reference(module, parts, rows, updates, **(told or {}))
    if not world.divides:
        assert_equal(found, expected, torch.float64)
    gradients = zip(found.gradients, expected.gradients, strict=True)
    return {"error": max(gradient_error(*pair) for pair in gradients), "bound": TOLERANCE[torch.float64]}


def evaluated(world: World, *, place: str) -> dict[str, Any]:
    """Figures of an evaluation that the ranks share, as text that shows every bit."""
    where = Path(place) / str(world.rank)
    parts = match_parts(base_of(), ROWS, where, micro_tokens=64, packing="packed", world=world)
    table = parts.task.fixed(parts.train)
    found = evaluate(parts.forward, parts.task, table, micro_tokens=64, packing="packed", world=world)
    return {"loss": found.loss.hex(), **{name: repr(value) for name, value in found.metrics.items()}}
