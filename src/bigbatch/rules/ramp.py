"""A batch that grows during the run: through which sizes, and when.

Each size is a whole multiple of the one before, clocks count samples, and the optimiser's state is kept. The run ends
after the same samples whatever the sizes were; its last batch takes what is left.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

from bigbatch.errors import Problem, RecipeError
from bigbatch.rules.batch_size import Effective, OptimizerSettings, scaled
from bigbatch.rules.clocks import Length, few_updates, target_samples
from bigbatch.rules.schedules import Schedule, in_samples
from bigbatch.units import Quantity

By = Literal["noise", "schedule", "table"]
AGREEING_MEASUREMENTS = 2
"""In a row, before the batch grows: one measurement may be luck."""
_GRID = 4096
"""Places of the run at which the schedule is looked at for where it has fallen."""


class RampSettings(Protocol):
    """What this file reads of `recipe.batch.ramp`."""

    @property
    def start(self) -> int: ...
    @property
    def by(self) -> By: ...
    @property
    def table(self) -> Mapping[str, int]: ...
    def steps(self) -> list[tuple[Quantity, int]]: ...


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """The sizes of a run's batches, smallest first, and where each begins."""

    by: By
    sizes: tuple[int, ...]
    """Samples; each a whole multiple of the one before, the last is `batch.samples`."""
    total_samples: int
    """Of the run: a multiple of the first size."""
    marks: tuple[float, ...] | None
    """Samples consumed from which sizes[1:] hold, from the first boundary on; None: measured during the run."""

    def stage(self, position: int, grown: int) -> int:
        """Index of the size of the batch at `position`; `grown` is where measurements have brought it."""
        return grown if self.marks is None else bisect_right(self.marks, position)

    def samples(self, position: int, stage: int) -> int:
        """Samples of the batch at `position`: the stage's, or what is left of the run."""
        return min(self.sizes[stage], self.total_samples - position)

    def walk(self, grown: int = 0) -> Iterator[tuple[int, int]]:
        """(position, stage) of every update, if no measurement made it grow further."""
        position = 0
        while position < self.total_samples:
            stage = self.stage(position, grown)
            yield position, stage
            position += self.samples(position, stage)

    def after_measurement(self, grown: int, votes: int, low: float | None) -> tuple[int, int]:
        """Whether the next size is worth using.

        ::

            low >= next size, twice in a row: grow        (never shrinks)

        Args:
            grown: stage so far.
            votes: measurements in a row that spoke for more.
            low: lower bound of the noise scale's interval, in samples; None: not known yet.

        Returns:
            The stage and the votes from here on.

        Example:
            >>> ramp = Ramp(by="noise", sizes=(32, 64), total_samples=3200, marks=None)
            >>> ramp.after_measurement(0, 0, 80.0), ramp.after_measurement(0, 1, 80.0)
            ((0, 1), (1, 0))
        """
        if self.marks is not None or grown + 1 >= len(self.sizes):
            return grown, 0
        votes = votes + 1 if low is not None and low >= self.sizes[grown + 1] else 0
        return (grown + 1, 0) if votes >= AGREEING_MEASUREMENTS else (grown, votes)

    def __str__(self) -> str:
        """`64 -> 128 (from 3,000 samples) -> 256 (from 4,500)`, or the sizes alone where they are measured."""
        first, *rest = (f"{size:,}" for size in self.sizes)
        if self.marks is None:
            return " -> ".join([first, *rest])
        told = [
            f"{size} (from {mark:,.0f} samples)" if mark < self.total_samples else f"{size} (never reached)"
            for size, mark in zip(rest, self.marks, strict=True)
        ]
        return " -> ".join([first, *told])


def ramp_samples(settings: RampSettings, length: Quantity, epoch_samples: int) -> int:
    """Samples of a run with a ramp: the length asked for, rounded up to whole first batches.

    Args:
        settings: the first batch.
        length: in epochs or samples.
        epoch_samples: of the training data.

    Raises:
        RecipeError: a length in updates or tokens, which a growing batch has not.
    """
    if length.unit not in ("epochs", "samples"):
        what = f"a ramp needs a length in epochs or samples: how many {length.unit} there are depends on the ramp"
        raise RecipeError([Problem(where="recipe", key="batch.ramp", what=what)])
    target = target_samples(length, epoch_samples, None)
    assert target is not None
    return math.ceil(target / settings.start * (1 - 1e-9)) * settings.start


def ramp_from(
    settings: RampSettings,
    batch: int,
    total_samples: int,
    epoch_samples: int,
    schedule: Schedule,
    position_at: float = 1.0,
) -> Ramp:
    """Lay `recipe.batch.ramp` over a run.

    ::

        schedule    k times the first batch from where the schedule has fallen to 1/k      (lr: sqrt(k))
        table       as written
        noise       the next size once the noise scale's lower bound is above it

    Args:
        settings: `recipe.batch.ramp`.
        batch: `batch.samples`, the last size.
        total_samples: of the run (`ramp_samples`).
        epoch_samples: samples of the training split.
        schedule: of the learning rate, laid over this run.
        position_at: samples per unit of the schedule's clock (1, or fewer where it counts tokens).

    Raises:
        RecipeError: sizes that are no multiples of each other, or marks out of order.

    Example:
        `batch: {samples: 4096, ramp: {from: 256, by: schedule}}` on a linear schedule: 512 samples from where the
        rate has fallen to half of its peak, 1,024 from a quarter, and so on.

    Reference:
        Smith et al. 2018, Don't Decay the Learning Rate, Increase the Batch Size; Seesaw (arXiv 2510.14717) for
        `schedule`: where the rate would be halved it is divided by sqrt(2) and the batch doubled. Differs from both:
        sizes are whole multiples of each other, and where they change is counted in samples.
    """
    if settings.by == "table":
        marks, sizes = _of_table(settings, batch, total_samples, epoch_samples)
    else:
        sizes = _sizes(settings.start, batch)
        marks = tuple(_fallen_to(settings.start / size, schedule) * position_at for size in sizes[1:])
    return Ramp(
        by=settings.by,
        sizes=sizes,
        total_samples=total_samples,
        marks=None if settings.by == "noise" else marks,
    )


def ramp_length(ramp: Ramp, epoch_samples: int) -> Length:
    """Updates of a run with a ramp; where the growth is measured, as many as without any."""
    updates = sum(1 for _ in ramp.walk())
    return Length(
        updates=updates,
        samples=ramp.total_samples,
        epochs=ramp.total_samples / epoch_samples,
        exact=ramp.marks is not None,
        warnings=few_updates(updates, ramp.total_samples / updates),
    )


def scaled_in_stage(settings: OptimizerSettings, ramp: Ramp, stage: int) -> Effective:
    """Learning rate, betas and eps of a stage, by the recipe's rules from `base_batch`.

    A ramp by the schedule comes with its own rule, sqrt from the first batch, unless the recipe names another.

    Args:
        settings: `optimizer`.
        ramp: sizes of its stages, in samples.
        stage: from 0.
    """
    size = ramp.sizes[stage]
    if ramp.by == "schedule" and settings.lr_rule == "none" and settings.base_batch is None:
        plain = scaled(settings, size)
        ratio = size / ramp.sizes[0]
        note = f"lr {settings.lr:g} times sqrt(batch / {ramp.sizes[0]:,}): a ramp by the schedule"
        return Effective(
            lr=settings.lr * math.sqrt(ratio), betas=plain.betas, eps=plain.eps, ratio=ratio, notes=(note,)
        )
    return scaled(settings, size)


def _sizes(first: int, last: int) -> tuple[int, ...]:
    """From the first to the last by its prime factors, small ones first: 64, 128, 256, 768."""
    if last % first or last == first:
        what = (
            f"from: {first:,} cannot grow to {last:,} by whole factors; take a divisor of it that is smaller"
        )
        raise RecipeError([Problem(where="recipe", key="batch.ramp.from", what=what)])
    sizes, left, factor = [first], last // first, 2
    while left > 1:
        while left % factor == 0:
            sizes.append(sizes[-1] * factor)
            left //= factor
        factor += 1
    return tuple(sizes)


def _of_table(
    settings: RampSettings, batch: int, total_samples: int, epoch_samples: int
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Marks and sizes as written, checked."""
    scale = {"samples": 1.0, "epochs": float(epoch_samples), "percent": total_samples / 100}
    steps = [
        (in_samples("batch.ramp.table", when, scale, "samples, epochs or %"), size)
        for when, size in settings.steps()
    ]
    marks, sizes = tuple(mark for mark, _ in steps), (settings.start, *(size for _, size in steps))
    problems = []
    if list(marks) != sorted(set(marks)) or (marks and marks[0] <= 0):
        problems.append("each step must begin later than the one before, and the first after the start")
    problems += [
        f"{after:,} is no whole multiple of {before:,}, the size before it"
        for before, after in pairwise(sizes)
        if after % before or after == before
    ]
    if not steps or sizes[-1] != batch:
        problems.append(f"the last size must be batch.samples, {batch:,}")
    if problems:
        raise RecipeError([Problem(where="recipe", key="batch.ramp.table", what=what) for what in problems])
    return marks, sizes


def _fallen_to(share: float, schedule: Schedule) -> float:
    """First place behind the peak at which the schedule is at most `share` of it; infinity: never."""
    places = [schedule.total_samples * number / _GRID for number in range(_GRID + 1)]
    factors = [schedule.factor_at(place) for place in places]
    top = max(range(len(factors)), key=factors.__getitem__)
    behind = next((at for at in range(top, len(factors)) if factors[at] <= share), None)
    if behind is None:
        return math.inf
    low, high = places[max(behind - 1, 0)], places[behind]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if schedule.factor_at(middle) <= share else (middle, high)
    return high
