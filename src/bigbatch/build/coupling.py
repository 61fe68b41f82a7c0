"""What cannot be combined: a loss that couples the batch, arrangements of ranks, same bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bigbatch.build.bitwise import is_bitwise
from bigbatch.errors import Problem, RecipeError, UsageError
from bigbatch.facts import CalibrationFacts
from bigbatch.parallel.mesh import MeshShape, meshed
from bigbatch.probe.hardware import choose_device
from bigbatch.protocols import World
from bigbatch.recipe.schema import Recipe
from bigbatch.samples import TOKENS
from bigbatch.tasks.base import Task
from bigbatch.tasks.match import Match


def check_coupling(recipe: Recipe, task: Task, world: World, columns: Sequence[str] = ()) -> None:
    """Refuse what is not built for such a loss.

    Args:
        recipe: its `gradient`, `batch`, `sync` and `plan`.
        task: couples samples or whole batches.
        world: the ranks, as the recipe arranges them.
        columns: of the training rows; a column `negative` gives a pair another document even in a batch of 1.

    Raises:
        RecipeError: all of it, each with its key.
    """
    _check_gradient(recipe, task)
    if recipe.model.memory and recipe.task.name != "clm":
        what = (
            f"memory is for task clm, whose pieces follow one another; {recipe.task.name} reads samples alone"
        )
        _refuse([("model.memory", what)])
    if task.couples != "batch":
        if recipe.gradient.name == "cached":
            _refuse(
                [
                    (
                        "gradient",
                        "cached is for a loss that needs the whole batch; this task's is a sum over samples",
                    )
                ]
            )
        return
    mesh, problems = recipe.plan.mesh, []
    if isinstance(task, Match) and recipe.batch.samples == 1 and "negative" not in columns:
        what = (
            "a batch of 1 pair has no other document to tell its own from: the loss is 0 in every update; take 2 or "
            "more, or data with a column of negatives"
        )
        problems.append(("batch", what))
    if recipe.sync.apart:
        what = (
            "replicas that train apart see their own share of a batch; planned for losses of the whole batch"
        )
        problems.append(("sync.replicas", what))
    if is_bitwise(recipe):
        what = "bitwise is planned, not built yet, for losses of the whole batch; off gives equal results to rounding"
        problems.append(("plan.reproducible", what))
    if mesh is not None and mesh.tensor > 1:
        problems.append(
            ("plan.mesh.tensor", "tensor parallel is planned for losses of the whole batch; use shard")
        )
    if world.divides and recipe.gradient.name == "plain":
        what = "plain keeps the graph of many passes, which a divided model cannot; use gradient: cached"
        problems.append(("gradient", what))
    if recipe.plan.recompute not in (None, "none") and recipe.gradient.name == "cached":
        problems.append(
            ("plan.recompute", "gradient: cached keeps no activations between passes; leave it out")
        )
    if problems:
        _refuse(problems)


def _check_gradient(recipe: Recipe, task: Task) -> None:
    """Refuse what `gradient: sam` and `fgm` cannot be had with.

    Raises:
        RecipeError: all of it, each with its key.
    """
    name, problems = recipe.gradient.name, []
    if name in ("sam", "fgm") and task.couples == "batch":
        what = f"{name} is planned, not built yet, for losses of the whole batch; use gradient: cached"
        problems.append(("gradient", what))
    if name == "fgm" and set(task.sequences) != {TOKENS}:
        read = " and ".join(sorted(task.sequences)).replace(TOKENS, "target")
        what = f"fgm moves the tokens of one text; this model is given {read}: sam or plain"
        problems.append(("gradient", what))
    if name == "fgm" and recipe.plan.compile == "whole":
        what = "gradient: fgm moves tokens inside the model, which is then no whole; blocks or off"
        problems.append(("plan.compile", what))
    if name == "sam" and recipe.sync.apart:
        what = "replicas that train apart each have a gradient of their own; gradient: sam moves by that of the batch"
        problems.append(("sync.replicas", what))
    if name == "sam" and recipe.optimizer.state == "bf16_sr":
        what = (
            f"gradient: sam moves the weights by {recipe.gradient.rho:g} in all, which weights of bf16 round away; "
            "fp32 keeps them"
        )
        problems.append(("optimizer.state", what))
    if problems:
        _refuse(problems)


def arranged_in_mesh(world: World, recipe: Recipe) -> World:
    """The ranks as `plan.mesh` arranges them.

    Raises:
        UsageError: it needs another number of ranks, or cannot be had with `plan.reproducible: bitwise` or with
            replicas that train apart.
    """
    asked = recipe.plan.mesh
    if asked is None:
        return world
    shape = MeshShape(replicate=asked.replicate, shard=asked.shard, tensor=asked.tensor)
    if is_bitwise(recipe) and shape.replicate != shape.size:
        raise UsageError(
            "plan.reproducible: bitwise needs whole copies of the model: plan.mesh replicate alone"
        )
    if recipe.sync.apart and shape.replicate != shape.size:
        raise UsageError("sync.replicas: each rank holds whole replicas today: plan.mesh replicate alone")
    if recipe.sync.apart:
        return world
    return meshed(world, shape, choose_device(recipe.plan.device))


def with_cost(recipe: Recipe, task: Task, found: CalibrationFacts, update_tokens: int) -> CalibrationFacts:
    """What was measured of single micro-batches, with what such a loss adds to it.

    Args:
        recipe: its `gradient` says how the batch is computed.
        task: whose loss it is.
        found: of micro-batches that are forgotten one by one.
        update_tokens: computed tokens of an update.
    """
    if task.couples != "batch":
        return found
    if recipe.gradient.name == "cached":
        return replace(found, seconds_per_token=found.seconds_per_token + found.seconds_per_token_forward)
    # The activations of all other micro-batches stay until the loss is known.
    others = max(0, update_tokens - found.micro_tokens)
    kept = round(found.activation_bytes_per_token * others)
    return replace(found, resting_bytes=found.resting_bytes + kept)


def _refuse(problems: list[tuple[str, str]]) -> None:
    raise RecipeError([Problem(where="recipe", key=key, what=what) for key, what in problems])
