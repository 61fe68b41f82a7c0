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
from bigbatch.data.mixture import source_names
from bigbatch.model.names import clean_name
from bigbatch.model.runner import Runner
from bigbatch.plan.frozen import Plan
from bigbatch.protocols import Executor, Losses, Rule, World
from bigbatch.recipe.schema import Recipe
from bigbatch.samples import Table
from bigbatch.step.adversarial import FastGradient
from bigbatch.step.apart import Apart
from bigbatch.step.by_source import SourceLosses, Sources
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
from bigbatch.tasks.base import Task
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
    sources = _sources_of(recipe, ready.task, train, world)
    new_rule = partial(_rule_of, recipe, ready, forward, world, torch.device(device), scale)
    rule = sources.watched(new_rule, ready.task)
    executor = _executor_of(recipe, ready, forward, world, torch.device(device), scale, parameters, rule)
    common: dict[str, Any] = {
        "task": ready.task,
        "module": ready.module,
        "executor": as_asked(recipe, executor, parameters, world),
        "parameters": parameters,
        "world": world,
        "clip": recipe.clip,
        "scale": scale,
        "sources": sources,
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
    rule: Rule,
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
    return Tree(rule, passes, parameters) if in_a_tree else OneByOne(rule, passes)


def _sources_of(recipe: Recipe, task: Task, train: Table, world: World) -> Sources:
    """What notes the loss of each source of a mixture, where units are learnt one by one and in one pass."""
    files = recipe.data.train
    shared = bool(train.sources) and all(file.share for file in files)
    if not shared or task.couples != "sample" or train.groups is not None or recipe.gradient.name != "plain":
        return Sources()
    names = source_names([file.path for file in files])
    return SourceLosses(names=names, firsts=train.sources, task=task, world=world)


def _rule_of(
    recipe: Recipe,
    ready: Ready,
    runner: Runner,
    world: World,
    device: torch.device,
    scale: LossScale,
    task: Losses,
) -> Rule:
    """What a micro-batch goes through, as `gradient:` says; the world is told before gradients are complete."""
    asked, complete = recipe.gradient, world.last_backward
    if asked.name != "fgm":
        return Plain(runner, task, device, scale=scale, before_last=complete)
    assert asked.epsilon is not None and asked.share is not None
    nudge = Nudge(ready.anatomy.outer.get_input_embeddings())  # pyright: ignore
    once = Plain(runner, task, device, scale=scale)
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
