"""LEGW: how long a warm-up takes when the batch is k times the tuned one. Nothing moves unless asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bigbatch.errors import Problem, RecipeError
from bigbatch.rules.batch_size import BREAKS
from bigbatch.units import Quantity


class WarmupSettings(Protocol):
    """What this file reads of `recipe.schedule`."""

    @property
    def warmup(self) -> Quantity: ...
    @property
    def warmup_rule(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """A warm-up for this batch."""

    length: Quantity
    """As `schedule.warmup`, after the rule."""
    note: str | None = None
    """What the rule did, in words; None: nothing was asked."""


def scaled_warmup(settings: WarmupSettings, base_batch: float | None, batch: float) -> Warmup:
    """Apply `schedule.warmup_rule` for a batch k = batch / base_batch times the tuned one.

    ::

        legw: epochs k, samples k, % k, updates as they are (they have k times as many samples already)

    Args:
        settings: `recipe.schedule`.
        base_batch: `recipe.optimizer.base_batch`.
        batch: the global batch, in its unit.

    Raises:
        RecipeError: the rule without a base batch.

    Reference:
        You et al. 2019, arXiv 1901.08433, "Large-batch training for LSTM and beyond": linear-epoch gradual warm-up,
        with the sqrt rule for the learning rate. Differs from it: that rule is apart, `optimizer.lr_rule`.

    Example:
        A warm-up of 0.1 epochs, tuned for 32 samples, is one of 0.4 epochs for 128.
    """
    if settings.warmup_rule == "keep":
        return Warmup(length=settings.warmup)
    if base_batch is None:
        what = "legw needs optimizer.base_batch: the batch that the warm-up was tuned for"
        raise RecipeError([Problem(where="recipe", key="schedule.warmup_rule", what=what)])
    ratio, old = batch / base_batch, settings.warmup
    told = f"legw: batch {batch:g} is {ratio:g} times {base_batch:g}"
    if old.unit in ("updates", "none"):
        same = f"{old}: as typed ({told}, and so many updates have {ratio:g} times the samples; {BREAKS['legw']})"
        return Warmup(length=old, note=same)
    new = Quantity(old.amount * ratio, old.unit)
    return Warmup(length=new, note=f"{old} -> {new} ({told}; {BREAKS['legw']})")
