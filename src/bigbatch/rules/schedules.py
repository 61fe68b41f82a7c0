"""Learning-rate schedules, on a clock of samples.

The learning rate of an update is the schedule at the midpoint of its samples, so that the first update never
has a learning rate of zero and the sum over the run does not depend on the batch (midpoint quadrature: exact
wherever the schedule is linear across an update). That is where it differs from these:

Sources: Goyal et al. 2017, arXiv 1706.02677 (warm-up); Loshchilov and Hutter 2017, arXiv 1608.03983 (cosine, here
without restarts); Hu et al. 2024, arXiv 2404.06395 (wsd, whose decay is exponential there and linear here).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Protocol

from bigbatch.errors import Problem, RecipeError
from bigbatch.recipe.words import SCHEDULES
from bigbatch.units import Quantity


class ScheduleSettings(Protocol):
    """What this file reads of `recipe.schedule`."""

    @property
    def name(self) -> str: ...
    @property
    def warmup(self) -> Quantity: ...
    @property
    def decay(self) -> Quantity: ...
    @property
    def final_fraction(self) -> float: ...
    @property
    def args(self) -> Mapping[str, object]: ...


def learning_rate_factor(
    name: str,
    *,
    progress_samples: float,
    total_samples: float,
    warmup_samples: float = 0.0,
    decay_samples: float = 0.0,
    final_fraction: float = 0.0,
) -> float:
    """Learning rate divided by its peak, after `progress_samples` of the run.

    ::

        warm-up    s / warmup                                          for s < warmup
        linear     1 - (1 - f) x         x = (s - warmup) / (total - warmup)
        cosine     f + (1 - f) (1 + cos(pi x)) / 2
        constant   1
        wsd        1, and 1 - (1 - f) y over the last `decay_samples`, y = (s - (total - decay)) / decay

    Args:
        name: `linear`, `cosine`, `constant` or `wsd` (warm-up, stable, decay).
        progress_samples: samples consumed; beyond the end counts as the end.
        total_samples: samples of the whole run, the last batch in full.
        warmup_samples: samples over which the factor rises from 0.
        decay_samples: samples of the decay at the end (wsd alone).
        final_fraction: the factor at the end, f.

    Returns:
        The factor, in [0, 1] when `final_fraction` is.

    Raises:
        RecipeError: no schedule of that name.

    Example:
        >>> learning_rate_factor("linear", progress_samples=750, total_samples=1000, warmup_samples=500)
        0.5
    """
    if name not in SCHEDULES:
        raise RecipeError([_unknown(name)])
    progress = min(max(progress_samples, 0.0), total_samples)
    rise = progress / warmup_samples if progress < warmup_samples else 1.0
    if name == "constant":
        return rise
    start = total_samples - decay_samples if name == "wsd" else warmup_samples
    span = total_samples - start
    done = max(0.0, progress - start) / span if span > 0 else 0.0
    shape = (1.0 + math.cos(math.pi * done)) / 2.0 if name == "cosine" else 1.0 - done
    return min(rise, final_fraction + (1.0 - final_fraction) * shape)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule laid over one run: call it with an update's first position and size."""

    name: str
    total_samples: float
    warmup_samples: float
    decay_samples: float
    final_fraction: float
    custom: Callable[..., float] | None = None
    """`fn(progress_samples, total_samples, **args) -> factor`, when the schedule is your own code."""
    args: Mapping[str, object] = field(default_factory=dict)
    """Options of `custom`."""
    again_from: float | None = None
    """Where a run that had cooled down goes on: from here on the rate rises a second time, as it did at the start."""
    warnings: tuple[str, ...] = ()
    """Sentences for the plan: a warm-up that never ends, phases that overlap."""

    def __call__(self, first_sample: int, batch_samples: int) -> float:
        """Factor of the update that consumes `batch_samples` from position `first_sample` on."""
        return self.factor_at(first_sample + batch_samples / 2)

    def factor_at(self, progress_samples: float) -> float:
        """Factor after so many samples."""
        factor = self._laid(progress_samples)
        if self.again_from is None or not 0.0 <= progress_samples - self.again_from < self.warmup_samples:
            return factor
        return min(factor, (progress_samples - self.again_from) / self.warmup_samples)

    def _laid(self, progress_samples: float) -> float:
        if self.custom is not None:
            return float(self.custom(progress_samples, self.total_samples, **self.args))
        return learning_rate_factor(
            self.name,
            progress_samples=progress_samples,
            total_samples=self.total_samples,
            warmup_samples=self.warmup_samples,
            decay_samples=self.decay_samples,
            final_fraction=self.final_fraction,
        )


def schedule_from(
    settings: ScheduleSettings,
    total_samples: float,
    batch_samples: float,
    epoch_samples: int,
    custom: Callable[..., float] | None = None,
    sample: float = 1.0,
    warmup: Quantity | None = None,
) -> Schedule:
    """Lay `recipe.schedule` over a run. On a clock of tokens, all amounts below are tokens.

    Args:
        settings: `recipe.schedule`.
        total_samples: samples of the whole run: `Length.samples`.
        batch_samples: samples of an update (the mean, for batches counted in tokens): turns `200 updates`
            into samples.
        epoch_samples: samples of the training split: turns `1 epochs` into samples.
        custom: the function that `settings.name` refers to, when it is an import reference.
        sample: what a sample counts on the clock: its mean tokens on a clock of tokens.
        warmup: of `warmup.scaled_warmup`; None: `settings.warmup`.

    Raises:
        RecipeError: no schedule of that name, or a warm-up or decay in a unit that makes no sense here.
    """
    if custom is None and settings.name not in SCHEDULES:
        raise RecipeError([_unknown(settings.name)])
    scale = {
        "updates": batch_samples,
        "samples": sample,
        "epochs": epoch_samples,
        "percent": total_samples / 100,
    }
    asked = warmup or settings.warmup
    warmup_samples = in_samples("schedule.warmup", asked, scale)
    decay = in_samples("schedule.decay", settings.decay, scale) if settings.name == "wsd" else 0.0
    return Schedule(
        name=settings.name,
        total_samples=float(total_samples),
        warmup_samples=warmup_samples,
        decay_samples=decay,
        final_fraction=settings.final_fraction,
        custom=custom,
        args=dict(settings.args or {}),
        warnings=_doubts(settings, asked, warmup_samples, decay, total_samples) if custom is None else (),
    )


def in_samples(
    key: str,
    quantity: Quantity,
    scale: Mapping[str, float],
    expected: str = "updates, samples, epochs, % or 0",
) -> float:
    """A part of the run in samples; `scale` says how many each unit is.

    Args:
        key: of the recipe, for messages.
        quantity: with its unit; `none` is 0.
        scale: unit -> samples.
        expected: units, for messages.
    """
    if quantity.unit == "none":
        return 0.0
    if quantity.unit not in scale:
        what = f"found {quantity}; expected {expected}"
        raise RecipeError([Problem(where="recipe", key=key, what=what)])
    return quantity.amount * scale[quantity.unit]


def _doubts(
    settings: ScheduleSettings, asked: Quantity, warmup: float, decay: float, total: float
) -> tuple[str, ...]:
    """What is legal but hardly meant."""
    if warmup >= total:
        return (
            f"schedule.warmup: {asked} = {warmup:,.0f} samples, but the run has {total:,.0f}: "
            "the learning rate never reaches optimizer.lr",
        )
    if warmup + decay > total * (1 + 1e-9):
        return (
            f"schedule: warm-up ({asked}) and decay ({settings.decay}) overlap: together "
            f"{warmup + decay:,.0f} of {total:,.0f} samples; the smaller of the two factors counts",
        )
    return ()


def _unknown(name: str) -> Problem:
    near = get_close_matches(name, SCHEDULES, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    known = ", ".join(SCHEDULES)
    return Problem(
        where="recipe", key="schedule.name", what=f"unknown schedule {name!r}; known: {known}{hint}"
    )
