"""What ranks do in tests of questions: `(world, **JSON) -> JSON`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bigbatch.infer.evaluate import evaluate
from bigbatch.protocols import World
from tests.questions import question_parts, question_rows, reader, train_question_reference
from tests.split import assert_equal, gradient_error, train_split

ROWS = question_rows(40, without=7)


def equality(world: World, *, place: str, dtype: str, **keys: Any) -> dict[str, Any]:
    """Train among ranks; rank 0 holds it against the oracle. Figures of an evaluation, too, with every bit."""
    module, folder = reader().to(getattr(torch, dtype)), Path(place) / str(world.rank)
    parts = question_parts(module, ROWS, folder, micro_tokens=96, packing="packed", world=world, **keys)
    trained = train_split(parts, 2)
    table = parts.task.fixed(parts.train)
    evaluated = evaluate(parts.forward, parts.task, table, micro_tokens=96, packing="packed", world=world)
    figures = {"loss": evaluated.loss, **evaluated.metrics}
    found: dict[str, Any] = {"figures": {name: float(value or 0).hex() for name, value in figures.items()}}
    if world.rank == 0:
        expected = train_question_reference(module, parts, ROWS, 2)
        if not world.divides:
            assert_equal(trained, expected, getattr(torch, dtype))
        pairs = zip(trained.gradients, expected.gradients, strict=True)
        found |= {"error": max(gradient_error(*pair) for pair in pairs), "samples": evaluated.samples}
    return found
