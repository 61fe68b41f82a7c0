"""A short test of the learning rate before update 1: from small to large, then everything is put back.

It trains on the run's own first batches. Weights are copied before, and stand as they were afterwards, whatever
happens; the optimiser starts from nothing, fp16's loss scale where it was: a run that is killed before its first
checkpoint does not test again. The same on every split of the work: what it finds lies on a coarse grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from bigbatch.build.parts import Parts
from bigbatch.build.settled import RATE
from bigbatch.protocols import Rates
from bigbatch.records import Update
from bigbatch.rules.batch_size import scaled
from bigbatch.rules.first_run import rate_found, rate_test_updates, tested_rates
from bigbatch.samples import GlobalBatch, MicroBatch
from bigbatch.step.loss_scale import GradientOverflow
from bigbatch.step.noise import Noise
from bigbatch.step.together import Together

Pieces = Callable[[Iterable[MicroBatch]], Iterable[MicroBatch]]


def wanted(parts: Parts) -> int:
    """Updates that the test takes; 0 where the rate is not open, or known since an earlier start."""
    choice = parts.plan.choices.get(RATE)
    if choice is None or choice.source != "default":
        return 0
    return rate_test_updates(parts.clocks.length.updates)


def settle_rate(parts: Parts, updates: int, watched: Pieces) -> str:
    """Test the rate and put what was found into recipe, schedule and plan.

    Args:
        parts: of a run before its first update.
        updates: of the test.
        watched: the loop's watch over micro-batches, so that a signal ends the test too.

    Returns:
        What was found, in words.
    """
    usual = float(parts.plan.value(RATE))
    first = parts.recipe.batch.samples if parts.clocks.ramp is None else parts.clocks.ramp.sizes[0]
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
    if parts.clocks.ramp is None:
        parts.clocks.effective = scaled(parts.recipe.optimizer, batch.samples or batch.tokens or 1)
    else:
        parts.clocks.effective = parts.in_stage(0)
    parts.plan = parts.plan.changed(RATE, lr, why)
    parts.tell_length()


def _losses(parts: Parts, samples: int | None, rates: list[float], watched: Pieces) -> list[float]:
    """Loss of each update, up to the first that is not finite."""
    assert isinstance(parts.strategy, Together)
    strategy = replace(parts.strategy, noise=Noise())
    # Buffers, too: running averages of a module of the user's move with every forward.
    moved = [*strategy.parameters, *parts.module.buffers()]
    before = [tensor.detach().clone() for tensor in moved]
    scale = strategy.scale.to_state()
    factor = parts.in_stage(0).lr / float(parts.plan.value(RATE))  # the first batch is not the base
    losses: list[float] = []
    position = 0
    try:
        strategy.resume()
        for number, rate in enumerate(rates, start=1):
            batch = parts.batches.at(position, number, samples)
            record = _updated(strategy, batch, parts, watched, rate * factor)
            losses.append(math.inf if record.loss is None or record.skipped else float(record.loss))
            if not math.isfinite(losses[-1]):
                break
            position += batch.samples
    finally:
        with torch.no_grad():
            for tensor, old in zip(moved, before, strict=True):
                tensor.copy_(old)
        strategy.optimizer.state.clear()
        strategy.optimizer.zero_grad(set_to_none=True)
        strategy.scale.restore(scale)
    return losses


def _updated(strategy: Together, batch: GlobalBatch, parts: Parts, watched: Pieces, lr: float) -> Update:
    """One update of the test, at the largest loss scale that it does not overflow at."""
    while True:
        try:
            (record,) = strategy.update(batch, watched(strategy.pieces(batch, parts.cut)), Rates(lr=lr))
            return record
        except GradientOverflow:  # the scale was halved
            continue
