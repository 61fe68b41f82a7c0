"""What `gradient:` costs beside one forward and backward pass over the batch, and how the plan says so."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bigbatch.facts import CalibrationFacts, Choice
from bigbatch.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class GradientCost:
    """Of one update, against the plain sum over micro-batches."""

    passes: int = 1
    """Forward and backward passes over every micro-batch."""
    moves: int = 0
    """Passes over all weights beside the optimiser's: each reads and writes about as much as a step of AdamW."""
    weights_kept: int = 0
    """Copies of the trained weights while micro-batches run."""
    why: str = ""
    """For the plan; empty where there is nothing to say."""


def cost_of(recipe: Recipe) -> GradientCost:
    """What the recipe's gradient costs; that of losses of a whole batch is `build.coupling.with_cost`'s."""
    asked = recipe.gradient
    if asked.name == "fgm":
        why = (
            f"asked for: the loss, and that of tokens moved by {asked.epsilon:g} against each sample ({asked.share:g} "
            "of the whole): two forward and backward passes of every micro-batch"
        )
        return GradientCost(passes=2, why=why)
    if asked.name != "sam":
        return GradientCost()
    adaptive = ", each in proportion to its size" if asked.adaptive else ""
    why = (
        f"asked for: the weights move by {asked.rho:g} towards a higher loss{adaptive}, and the gradient is taken "
        "there: two forward and backward passes an update, and a copy of the trained weights"
    )
    return GradientCost(passes=2, moves=1, weights_kept=1, why=why)


def gradient(recipe: Recipe) -> dict[str, Choice]:
    """The line of the plan; none where each micro-batch runs once."""
    cost = cost_of(recipe)
    return (
        {"gradient": Choice(value=recipe.gradient.name, reason=cost.why, source="user")} if cost.why else {}
    )


def with_passes(calibration: CalibrationFacts | None, recipe: Recipe) -> CalibrationFacts | None:
    """What was measured of single passes, as an update takes them."""
    cost = cost_of(recipe)
    if calibration is None or cost == GradientCost():
        return calibration
    return replace(
        calibration,
        seconds_per_token=calibration.seconds_per_token * cost.passes,
        seconds_per_update=calibration.seconds_per_update * (1 + cost.moves),
    )
