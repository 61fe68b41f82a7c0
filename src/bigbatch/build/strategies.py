"""From the recipe's words to a way to train: all ranks together, or replicas that train apart; and from `gradient:` to
what drives the forward and backward passes of an update.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bigbatch.build.bitwise import is_bitwise
from bigbatch.build.formats import loss_scale_for
from bigbatch.build.measured import Measured
from bigbatch.build.noise import noise_scale
from bigbatch.model.groups import parameter_groups
from bigbatch.model.names import clean_name
from bigbatch.model.nudge import Nudge
from bigbatch.model.runner import Runner
from bigbatch.plan.frozen import Plan
from bigbatch.protocols import Executor, World
from bigbatch.recipe.schema import Recipe
from bigbatch.step.adversarial import FastGradient
from bigbatch.step.apart import Apart
from bigbatch.step.coupled import CoupledExecutor
from bigbatch.step.executor import PlainExecutor
from bigbatch.step.loss_scale import LossScale
from bigbatch.step.noise import Noise
from bigbatch.step.replicas import Replicas
from bigbatch.step.sam import SamExecutor
from bigbatch.step.together import Together
from bigbatch.step.tree import TreeExecutor
from bigbatch.tasks.ready import Ready


def strategy_of(
    recipe: Recipe, plan: Plan, on: Measured, forward: Runner, world: World
) -> tuple[Together | Apart, Noise]:
    """What moves the weights, and what measures the noise of its gradient.

    Args:
        recipe: with every choice made.
        plan: of this run.
        on: the model, divided if ranks divide it, its task and data.
        forward: runs it.
        world: the ranks.
    """
    ready, device, train = on.ready, on.hardware.device, on.tables["train"]
    trainable = list(world.trainable(ready.module))
    parameters = [parameter for _, parameter in trainable]
    # What is measured on throw-away parameters is measured by one rank alone: only here may ranks speak.
    new_trained = partial(on.new_optimizer, world=world, trainable=trainable)
    scale = loss_scale_for(plan)
    executor = _executor_of(recipe, ready, forward, world, device, scale, parameters)
    common: dict[str, Any] = {
        "task": ready.task,
        "module": ready.module,
        "executor": as_asked(recipe, executor, parameters, world),
        "parameters": parameters,
        "world": world,
        "clip": recipe.clip,
        "scale": scale,
        "device": device,
    }
    if recipe.sync.apart:
        replicas = Replicas(
            ready.module,
            parameters,
            world,
            recipe.sync,
            new_trained,
            last_update=on.length.updates,
            shared_gradients=forward.in_place,
        )
        return Apart(replicas=replicas, **common), Noise()
    optimizer = new_trained(ready.module)
    noise = noise_scale(
        recipe,
        plan,
        ready.task,
        {clean_name(name): own for name, own in parameter_groups(ready.module, ready.anatomy).items()},
        parameters=parameters,
        optimizer=optimizer,
        world=world,
        table=train,
        length=on.length,
    )
    return Together(optimizer=optimizer, noise=noise, **common), noise


def _executor_of(
    recipe: Recipe,
    ready: Ready,
    forward: Runner,
    world: World,
    device: str,
    scale: LossScale,
    parameters: Sequence[Tensor],
) -> PlainExecutor:
    """What turns micro-batches into gradients: by the loss, and by what of it must be the same bits."""
    common: dict[str, Any] = {
        "forward": forward,
        "task": ready.task,
        "device": torch.device(device),
        "seed": recipe.seed.dropout,
        "scale": scale,
        "span": forward.span,
        **passes_of(recipe, ready, world, forward.device),
    }
    apart = recipe.sync.apart
    if ready.task.couples == "batch" and not apart:
        return CoupledExecutor(
            world=world,
            cached=recipe.gradient.name == "cached",
            in_place=forward.in_place,
            **common,
        )
    if is_bitwise(recipe) and not apart:
        return TreeExecutor(parameters=parameters, **common)
    return PlainExecutor(in_place=forward.in_place, **common)


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
