"""From `gradient:` to what drives the forward and backward passes of an update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bigbatch.build.ready import Ready
from bigbatch.model.nudge import Nudge
from bigbatch.protocols import Executor, World
from bigbatch.recipe.schema import Recipe
from bigbatch.step.adversarial import FastGradient
from bigbatch.step.sam import SamExecutor


def passes_of(recipe: Recipe, ready: Ready, world: World, device: torch.device) -> dict[str, object]:
    """What a micro-batch goes through: arguments of an executor.

    Args:
        recipe: its `gradient`.
        ready: the model.
        world: told before the backward pass after which gradients are complete.
        device: where the model is.
    """
    asked, complete = recipe.gradient, {"before_last": world.last_backward}
    if asked.name != "fgm":
        return dict(complete)
    assert asked.epsilon is not None and asked.share is not None
    nudge = Nudge(ready.anatomy.outer.get_input_embeddings())  # pyright: ignore
    return {"rule": FastGradient(nudge, device, epsilon=asked.epsilon, share=asked.share, **complete)}


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
