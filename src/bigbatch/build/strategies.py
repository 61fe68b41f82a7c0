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
from bigbatch.model.names import clean_name
from bigbatch.model.runner import Runner
from bigbatch.plan.frozen import Plan
from bigbatch.protocols import Executor, Rule, World
from bigbatch.recipe.schema import Recipe
from bigbatch.step.adversarial import FastGradient
from bigbatch.step.apart import Apart
from bigbatch.step.coupled import Coupled
from bigbatch.step.executor import OneByOne, Passes, Plain
from bigbatch.step.groups import parameter_groups
from bigbatch.step.loss_scale import LossScale
from bigbatch.step.noise import Noise
from bigbatch.step.nudge import Nudge
from bigbatch.step.replicas import Replicas
from bigbatch.step.sam import SamExecutor
from bigbatch.step.together import Together
from bigbatch.step.tree import Tree
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
    executor = _executor_of(recipe, ready, forward, world, torch.device(device), scale, parameters)
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
    runner: Runner,
    world: World,
    device: torch.device,
    scale: LossScale,
    parameters: Sequence[Tensor],
) -> Executor:
    """What turns micro-batches into gradients: by the loss, and by what of it must be the same bits."""
    apart = recipe.sync.apart
    in_a_tree = is_bitwise(recipe) and not apart
    passes = Passes(
        device, recipe.seed.dropout, in_place=() if in_a_tree else runner.in_place, span=runner.span
    )
    if ready.task.couples == "batch" and not apart:
        cached, complete = recipe.gradient.name == "cached", world.last_backward
        return Coupled(runner, ready.task, passes, world, cached=cached, scale=scale, before_last=complete)
    rule = _rule_of(recipe, ready, runner, world, device, scale)
    return Tree(rule, passes, parameters) if in_a_tree else OneByOne(rule, passes)


def _rule_of(
    recipe: Recipe, ready: Ready, runner: Runner, world: World, device: torch.device, scale: LossScale
) -> Rule:
    """What a micro-batch goes through, as `gradient:` says; the world is told before gradients are complete."""
    asked, complete = recipe.gradient, world.last_backward
    if asked.name != "fgm":
        return Plain(runner, ready.task, device, scale=scale, before_last=complete)
    assert asked.epsilon is not None and asked.share is not None
    nudge = Nudge(ready.anatomy.outer.get_input_embeddings())  # pyright: ignore
    once = Plain(runner, ready.task, device, scale=scale)
    return FastGradient(once, nudge, epsilon=asked.epsilon, share=asked.share, before_last=complete)


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
