"""When the gradient noise is measured, and what a run remembers and says of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bigbatch.build.bitwise import is_bitwise
from bigbatch.data.random_parts import part_micro_batches
from bigbatch.errors import Problem, RecipeError
from bigbatch.optim.groups import names_of
from bigbatch.plan.frozen import Plan
from bigbatch.plan.noise import NOT_MEASURED
from bigbatch.protocols import Cut, World
from bigbatch.recipe.schema import Recipe
from bigbatch.records import Update
from bigbatch.rules.clocks import Clock, Length, mark_crossed
from bigbatch.rules.noise_scale import ADAM, WHOLE, Interval, State, advanced, interval_of, names, part_sizes
from bigbatch.rules.ramp import Ramp
from bigbatch.samples import GlobalBatch, MicroBatch, Table
from bigbatch.step.noise import Noise, NoiseMeter, Remembers
from bigbatch.tasks.base import Task

HALF_LIFE_MEASUREMENTS = 20
"""A measurement counts half after so many others: about 58 count in full, and a changing scale is followed."""


def obstacle(recipe: Recipe, task: Task) -> str:
    """Why the noise of this run's gradient cannot be measured; empty when it can."""
    if recipe.sync.apart:
        return "replicas that train apart have no common gradient"
    if is_bitwise(recipe):
        return "plan.reproducible: bitwise fixes the micro-batches and the order of sums"
    if task.couples == "batch":
        return "the loss couples the samples of a batch: no part of it has a gradient of its own"
    if recipe.gradient.name == "sam":
        return (
            "gradient: sam moves the weights by the whole batch's gradient before it takes that of any part"
        )
    if recipe.batch.samples == 1:
        return "a batch of one sample has no parts"
    mesh = recipe.plan.mesh
    if mesh is not None and mesh.tensor > 1 and mesh.replicate > 1 and mesh.shard == 1:
        return "copies of a model whose products are shared sum their gradients only at the end of an update"
    return ""


def shared(world: World) -> bool:
    """Whether ranks sum their gradients in every pass."""
    return world.divides


@dataclass(kw_only=True, eq=False)
class NoiseScale(Noise):
    """Measures some updates of a run; which ones follows from their position alone."""

    recipe: Recipe
    meter: NoiseMeter
    world: World
    table: Table
    length: Length
    half_life_samples: float
    _measuring: bool = field(default=False, init=False)

    def due(self, batch: GlobalBatch) -> bool:
        """Whether this update is measured; a batch of one sample has no parts."""
        before = Clock(updates=batch.update - 1, samples=batch.first_position)
        after = Clock(updates=batch.update, samples=batch.first_position + batch.samples)
        return batch.samples > 1 and mark_crossed(
            self.recipe.scale.every,
            before,
            after,
            epoch_samples=len(self.table),
            total_samples=self.length.samples,
        )

    def sizes(self, batch: GlobalBatch) -> list[int]:
        """Samples of each random part."""
        return part_sizes(batch.samples, self.recipe.scale.parts)

    def pieces(self, batch: GlobalBatch, cut: Cut) -> Iterable[MicroBatch] | None:
        """This rank's micro-batches, random part behind random part."""
        if not self.due(batch):
            return None
        return part_micro_batches(
            batch,
            self.sizes(batch),
            self.recipe.seed.data,
            micro_tokens=cut.micro_tokens,
            packing=cut.packing,
            part=self.world.part,
            shared=shared(self.world),
        )

    def watched(self, batch: GlobalBatch, pieces: Iterable[MicroBatch]) -> Iterable[MicroBatch]:
        """The gradient is read after the last micro-batch of each random part."""
        self._measuring = self.due(batch)
        return self.meter.watched(pieces, self.sizes(batch)) if self._measuring else pieces

    def read(self, loss_scale: float) -> None:
        """Finish the measurement."""
        if self._measuring:
            self.meter.read(loss_scale)

    def noted(self, record: Update, progress: Remembers) -> Update:
        """The record with what is known of the noise after this update; `progress` remembers it."""
        found, self.meter.found = self.meter.found, {}
        if record.skipped or WHOLE not in found:
            return record
        progress.noise = advanced(progress.noise, found, record.samples, self.half_life_samples)
        latest = found[WHOLE]
        raw = {"noise_trace": latest.trace, "gradient_square": latest.square}
        # Reading gradients happens while the executor waits for the next micro-batch.
        waited = max(0.0, record.wait_seconds - self.meter.seconds)
        return replace(record, noise={**fields(progress.noise), **raw}, wait_seconds=waited)


def noise_scale(
    recipe: Recipe,
    plan: Plan,
    task: Task,
    groups: Mapping[str, str],
    *,
    parameters: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    world: World,
    table: Table,
    length: Length,
) -> Noise:
    """What measures a run.

    Args:
        recipe: its section `scale` says how often.
        plan: may have decided against it.
        task: whose loss it is.
        groups: name of a parameter -> its group.
        parameters: this rank's parts of the trainable ones.
        optimizer: of them.
        world: the ranks.
        table: the tokenised training split.
        length: of the run.
    """
    choice = plan.choices.get("noise_scale")
    declined = choice is not None and choice.value == NOT_MEASURED and choice.source != "user"
    if recipe.scale.every.unit in ("never", "none") or declined or obstacle(recipe, task):
        return Noise()
    named = names_of(optimizer.param_groups)
    meter = NoiseMeter(
        parameters,
        [groups.get(named.get(parameter, ""), "other") for parameter in parameters],
        world,
        optimizer,
        shared=shared(world),
    )
    return NoiseScale(
        recipe=recipe,
        meter=meter,
        world=world,
        table=table,
        length=length,
        half_life_samples=HALF_LIFE_MEASUREMENTS * _spacing_samples(recipe, table, length),
    )


def refuse_unmeasured(ramp: Ramp | None, noise: Noise, plan: Plan) -> None:
    """A ramp by the noise scale needs it.

    Args:
        ramp: one without `marks` grows with the noise scale; None: the batch does not grow.
        noise: what will measure it in this run.
        plan: its choice `noise_scale` says why it is not measured.

    Raises:
        RecipeError: it is not measured in this run, with the reason.
    """
    if ramp is None or ramp.marks is not None or isinstance(noise, NoiseScale):
        return
    choice = plan.choices.get("noise_scale")
    why = "it is not measured" if choice is None else choice.reason
    what = f"a ramp by noise needs the noise scale: {why}; by: schedule or by: table do without"
    raise RecipeError([Problem(where="recipe", key="batch.ramp.by", what=what)])


def _spacing_samples(recipe: Recipe, table: Table, length: Length) -> float:
    """Samples from one measurement to the next."""
    every, batch = recipe.scale.every, length.samples / length.updates
    of_unit = {"updates": batch, "samples": 1.0, "epochs": float(len(table))}
    return max(batch, every.amount * of_unit.get(every.unit, 0.0))


# ---------------------------------------------------------------- words and figures


def fields(state: State) -> dict[str, float | None]:
    """What the record of a measured update says: `noise_scale`, its bounds, and that of Adam and of each group."""
    found: dict[str, float | None] = {}
    for name in names(state):
        known = interval_of(state, name)
        assert known is not None
        key = {WHOLE: "noise_scale", ADAM: "noise_scale_adam"}.get(name, f"noise_scale.{name}")
        found[key] = _number(known.scale)
        if name in (WHOLE, ADAM) and known.low is not None:
            found |= {f"{key}_low": known.low, f"{key}_high": _number(known.high)}
        if name == WHOLE:
            found["noise_scale_measurements"] = known.measurements
    return found


def result(state: State, why_not: str) -> dict[str, object]:
    """What result.json says: the latest averages, or why there are none."""
    known = interval_of(state)
    if known is None:
        return {"not_measured": why_not or "no update was measured"}
    groups = {name: interval_of(state, name) for name in names(state) if name not in (WHOLE, ADAM)}
    adam = interval_of(state, ADAM)
    return {
        **_figures(known),
        "measurements": known.measurements,
        "adam": None if adam is None else _figures(adam),
        "groups": {name: _number(own.scale) for name, own in groups.items() if own is not None},
    }


def _figures(known: Interval) -> dict[str, float | None]:
    bounded = {} if known.low is None else {"low": known.low, "high": _number(known.high)}
    return {"samples": _number(known.scale), **bounded}


def _number(value: float | None) -> float | None:
    """JSON knows no infinity: null is larger than measurable."""
    return value if value is not None and math.isfinite(value) else None
