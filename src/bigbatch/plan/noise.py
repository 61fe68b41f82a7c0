"""Whether the gradient noise is measured: as asked, unless it cannot be or its memory is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigbatch.facts import Choice, ModelFacts
from bigbatch.plan.memory import BYTES_PER_VALUE
from bigbatch.rules.clocks import Length
from bigbatch.units import show_bytes

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe

NOT_MEASURED = "not measured"
GRADIENTS = 2
"""Tensors per trained parameter that an update which is measured needs while it accumulates."""


def noise_scale(
    recipe: Recipe, obstacle: str, model: ModelFacts, length: Length, free_bytes: int
) -> tuple[dict[str, Choice], int]:
    """The choice, and the bytes that measuring takes.

    Args:
        recipe: the resolved recipe.
        obstacle: why it cannot be measured; empty when it can.
        model: sizes of the model.
        length: of the run.
        free_bytes: memory that the plan leaves while micro-batches run.
    """
    scale = getattr(recipe, "scale", None)
    if scale is None:
        return {}, 0
    every = scale.every
    needed = GRADIENTS * model.trainable_parameters * BYTES_PER_VALUE
    if every.unit in ("never", "none") or (every.amount == 0 and every.unit != "end"):
        choice = Choice(value=NOT_MEASURED, reason="scale.every is never", source="user")
    elif obstacle:
        choice = Choice(value=NOT_MEASURED, reason=obstacle, source="derived")
    elif every.unit == "updates" and every.amount > length.updates:
        why = f"the run has {length.updates:,} updates and would measure every {every.amount:,g}: lower scale.every"
        choice = Choice(value=NOT_MEASURED, reason=why, source="user")
    elif needed > free_bytes:
        why = f"it needs two gradients of memory ({show_bytes(needed)}) beside the micro-batch"
        choice = Choice(
            value=NOT_MEASURED, reason=f"{why}, {show_bytes(max(0, free_bytes))} are left", source="derived"
        )
    else:
        why = f"{scale.parts} random parts of the batch are compared; {show_bytes(needed)} for that update"
        return {"noise_scale": Choice(value=f"every {every}", reason=why, source="default")}, needed
    return {"noise_scale": choice}, 0
