"""A short test of the learning rate before update 1: from small to large, then everything is put back.

It trains on the run's own first batches. Weights are copied before, and stand as they were afterwards, whatever
happens; the optimiser starts from nothing, fp16's loss scale where it was: a run that is killed before its first
checkpoint does not test again. The same on every split of the work: what it finds lies on a coarse grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from bigbatch.build.build import Parts
from bigbatch.build.settled import RATE
from bigbatch.data.packs import micro_batches
from bigbatch.parallel.agree import OutOfMemory
from bigbatch.precision.loss_scale import GradientOverflow
from bigbatch.protocols import Record
from bigbatch.records import GlobalBatch, MicroBatch, Update
from bigbatch.rules.batch_size import scaled
from bigbatch.rules.first_run import rate_found, rate_test_updates, tested_rates

if TYPE_CHECKING:
    from bigbatch.run.loop import Loop

Pieces = Callable[[Iterator[MicroBatch]], Iterator[MicroBatch]]


def _wanted(parts: Parts) -> int:
    """Updates that the test takes; 0 where the rate is not open, or known since an earlier start."""
    choice = parts.plan.choices.get(RATE)
    if choice is None or choice.source != "default":
        return 0
    return rate_test_updates(parts.length.updates)


def tested_rate(loop: Loop) -> Iterator[Record]:
    """Before update 1: the learning rate that `auto` leaves open; the plan that says so is durable before it."""
    parts = loop.parts
    updates = _wanted(parts) if loop.progress.update == 0 else 0
    if not updates:
        return
    while True:
        try:
            why = _settle_rate(parts, updates, loop.watched_pieces)
            break
        except OutOfMemory as error:
            yield loop.emit(loop.shrink(error, "the test of the learning rate"))
    loop.keeper.write_plan(parts.plan)
    lr = parts.recipe.optimizer.lr
    yield loop.emit(loop.event("rate_test", why, f"trains with optimizer.lr {lr:g}", lr=lr))


def _settle_rate(parts: Parts, updates: int, watched: Pieces) -> str:
    """Test the rate and put what was found into recipe, schedule and plan.

    Args:
        parts: of a run before its first update.
        updates: of the test.
        watched: the loop's watch over micro-batches, so that a signal ends the test too.

    Returns:
        What was found, in words.
    """
    usual = float(parts.plan.value(RATE))
    first = parts.recipe.batch.samples if parts.ramp is None else parts.ramp.sizes[0]
    rates = tested_rates(usual, updates)
    losses = _losses(parts, first, rates, watched)
    found, why = rate_found(usual, rates[: len(losses)], losses)
    _use_rate(parts, found, f"{why}; measured in {len(losses)} updates that were taken back")
    return why


def _use_rate(parts: Parts, lr: float, why: str) -> None:
    """Train with this rate at `optimizer.base_batch` from here on."""
    parts.recipe = parts.recipe.model_copy(
        update={"optimizer": parts.recipe.optimizer.model_copy(update={"lr": lr})}
    )
    batch = parts.recipe.batch
    if parts.ramp is None:
        parts.effective = scaled(parts.recipe.optimizer, batch.samples or batch.tokens or 1)
    else:
        parts.effective = parts.in_stage(0)
    parts.plan = parts.plan.changed(RATE, lr, why)
    parts.tell_length()


def _losses(parts: Parts, samples: int | None, rates: list[float], watched: Pieces) -> list[float]:
    """Loss of each update, up to the first that is not finite."""
    step = parts.step
    # Buffers, too: running averages of a module of the user's move with every forward.
    moved = [*step.parameters, *parts.module.buffers()]
    before = [tensor.detach().clone() for tensor in moved]
    scale = None if step.loss_scale is None else step.loss_scale.to_state()
    factor = parts.in_stage(0).lr / float(parts.plan.value(RATE))  # the first batch is not the base
    losses: list[float] = []
    position = 0
    try:
        parts.resume_training()
        for number, rate in enumerate(rates, start=1):
            batch = parts.batches.at(position, number, samples)
            record = _updated(parts, batch, watched, rate * factor)
            losses.append(math.inf if record.loss is None or record.skipped else float(record.loss))
            if not math.isfinite(losses[-1]):
                break
            position += batch.samples
    finally:
        with torch.no_grad():
            for tensor, old in zip(moved, before, strict=True):
                tensor.copy_(old)
        step.optimizer.state.clear()
        step.optimizer.zero_grad(set_to_none=True)
        if step.loss_scale is not None and scale is not None:
            step.loss_scale.restore(scale)
    return losses


def _updated(parts: Parts, batch: GlobalBatch, watched: Pieces, lr: float) -> Update:
    """One update of the test, at the largest loss scale that it does not overflow at."""
    step = parts.step
    while True:
        cut = micro_batches(
            batch,
            parts.train,
            micro_tokens=parts.micro_tokens,
            packing=parts.packing,
            part=step.world.part,
        )
        try:
            return parts.update(step, batch, watched(cut), lr=lr, tokens_before=0)
        except GradientOverflow:
            assert step.loss_scale is not None
            step.loss_scale.halve()
