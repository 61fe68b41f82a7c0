"""What `auto` means in this run: a recipe with numbers, and the choices of the plan that say why.

The numbers follow from data and model alone, so every rank and every resume finds the same; the rate may be corrected
by a test before update 1 (`run.rate_test`), the end by validation (`run.plateau`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bigbatch.build.noise import obstacle
from bigbatch.build.untrained import is_untrained
from bigbatch.facts import Choice
from bigbatch.metrics.watched import validation_splits
from bigbatch.model.adapters import has_adapters
from bigbatch.plan.frozen import Plan
from bigbatch.recipe.inputs import BatchSpec, Ramp
from bigbatch.recipe.learning import ScheduleSpec
from bigbatch.recipe.schema import Recipe
from bigbatch.recipe.values import AUTO, AUTO_WARMUP
from bigbatch.rules.first_run import Choices, FirstRun, first_run, warmup_updates
from bigbatch.samples import Table
from bigbatch.tasks.base import Task
from bigbatch.tasks.classify import Classify
from bigbatch.tasks.ready import Ready
from bigbatch.units import Quantity, parse_quantity

BATCH, EPOCHS, RATE = "auto_batch", "auto_epochs", "auto_lr"
"""Names of the choices in plan.json."""


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A recipe without `auto`."""

    recipe: Recipe
    choices: Mapping[str, Choice] = field(default_factory=dict)
    """For the plan: what was decided, and why; a frozen plan has them already."""
    open_end: bool = False
    """Whether validation decides when the cool-down begins; `epochs` is the most there will be."""


def settled(
    recipe: Recipe, ready: Ready, tables: Mapping[str, Table], hidden: int, frozen: Plan | None
) -> Settled:
    """Put numbers where the recipe says auto.

    Args:
        recipe: as the user wrote it.
        ready: the model and its task.
        tables: tokenised splits.
        hidden: width of the model.
        frozen: the plan of a run that is being resumed: its numbers stand.
    """
    if not recipe.is_auto:
        return Settled(recipe=recipe)
    found = first_run(_known(recipe, ready, tables, hidden))
    if frozen is not None:
        found = _as_before(found, frozen)
    changes: dict[str, object] = {}
    choices: dict[str, Choice] = {}
    if recipe.batch.samples == AUTO:
        changes["batch"] = _batch(recipe, found)
        sizes = [found.first_batch, found.last_batch]
        choices[BATCH] = Choice(value=sizes, reason=found.batch_reason, source="derived")
    if recipe.epochs == AUTO:
        changes["epochs"] = found.epochs
        choices[EPOCHS] = Choice(value=found.epochs, reason=found.epochs_reason, source="derived")
        changes["schedule"] = _schedule(recipe, found, len(tables["train"]))
    optimizer: dict[str, object] = {}
    if recipe.optimizer.lr == AUTO:
        optimizer = {"lr": found.lr, "base_batch": found.base_batch, "lr_rule": "sqrt"}
        if recipe.batch.tokens is not None:  # a batch in tokens has no samples to compare
            optimizer = {"lr": found.lr}
        choices[RATE] = Choice(value=found.lr, reason=found.lr_reason, source="default")
    elif BATCH in choices and recipe.optimizer.base_batch is None and found.last_batch > found.first_batch:
        # As typed for the first size; larger ones follow it.
        optimizer = {"base_batch": found.first_batch, "lr_rule": "sqrt"}
    if optimizer:
        changes["optimizer"] = recipe.optimizer.model_copy(update=optimizer)
    copy = recipe.model_copy(update=changes)
    return Settled(recipe=copy, choices=choices, open_end=EPOCHS in choices and found.measured)


def _known(recipe: Recipe, ready: Ready, tables: Mapping[str, Table], hidden: int) -> FirstRun:
    validation = validation_splits(tables)
    return FirstRun(
        rows=len(tables["train"]),
        validation_rows=len(tables[validation[0]]) if validation else 0,
        watched=recipe.run.evaluate_every.unit not in ("never", "end"),
        hidden=hidden,
        pretrained=not is_untrained(ready.module),
        adapters=has_adapters(ready.module),
        classes=len(ready.task.label_names) if isinstance(ready.task, Classify) else 0,
        batch=None if recipe.batch.samples == AUTO else recipe.batch.samples,
        grows=_may_grow(recipe, ready.task),
        coupled=ready.task.couples == "batch",
    )


def _may_grow(recipe: Recipe, task: Task) -> bool:
    """Whether a ramp by noise can be laid over this run: it is measured, and its end does not depend on the ramp."""
    length = recipe.epochs == AUTO or recipe.length.unit in ("epochs", "samples")
    measured = recipe.scale.every.unit != "never" and bool(recipe.scale.every.amount)
    return recipe.batch.samples == AUTO and length and measured and not obstacle(recipe, task)


def _batch(recipe: Recipe, found: Choices) -> BatchSpec:
    ramp = None
    if found.last_batch > found.first_batch:
        ramp = Ramp.model_validate({"from": found.first_batch, "by": "noise"})
    return recipe.batch.model_copy(update={"samples": found.last_batch, "ramp": ramp})


def _schedule(recipe: Recipe, found: Choices, rows: int) -> ScheduleSpec:
    """With the usual warm-up, unless the run is too short for it; one that the user chose stays."""
    usual = recipe.schedule.warmup
    if usual != parse_quantity(AUTO_WARMUP) or recipe.batch.tokens is not None:
        return recipe.schedule
    samples = found.first_batch if recipe.batch.samples == AUTO else recipe.batch.samples
    kept = warmup_updates(usual.amount, rows * found.epochs / (samples or 1))
    return recipe.schedule.model_copy(update={"warmup": Quantity(kept, "updates")})


Value = TypeVar("Value")


def _as_before(found: Choices, frozen: Plan) -> Choices:
    """The numbers that the run began with."""

    def kept(name: str, default: Value) -> Value:
        choice = frozen.choices.get(name)
        return default if choice is None else choice.value

    first, last = kept(BATCH, [found.first_batch, found.last_batch])
    return replace(
        found,
        first_batch=int(first),
        last_batch=int(last),
        epochs=float(kept(EPOCHS, found.epochs)),
        lr=float(kept(RATE, found.lr)),
    )
