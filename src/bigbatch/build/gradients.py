"""From `gradient:` to what drives the forward and backward passes of an update."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bigbatch.protocols import Executor, World
from bigbatch.recipe.schema import Recipe
from bigbatch.step.sam import SamExecutor


def as_asked(recipe: Recipe, executor: Executor, parameters: Sequence[Tensor], world: World) -> Executor:
    """The executor, driven as `gradient:` says.

    Args:
        recipe: its `gradient`.
        executor: turns micro-batches into gradients.
        parameters: all trained ones, this rank's parts of them.
        world: the ranks.
    """
    asked = recipe.gradient
    if asked.name != "sam":
        return executor
    assert asked.rho is not None
    return SamExecutor(executor, parameters, world, rho=asked.rho, adaptive=bool(asked.adaptive))
