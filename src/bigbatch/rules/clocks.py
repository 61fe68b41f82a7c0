"""How long a run is, in every unit, and when its intervals fire.

The stream of epochs is cut into full batches; the last batch wraps into the next epoch. Clocks are samples
consumed, so that nothing moves when the batch changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bigbatch.errors import Problem, RecipeError
from bigbatch.units import Quantity

FEW_UPDATES = 50
"""Fewer updates than this are a warning: warm-up and decay leave hardly any at the peak learning rate."""

_ROUNDING = 1e-9
"""Relative slack for amounts such as 0.1 epochs that floating point cannot hold."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """The length of a run."""

    updates: int
    samples: int
    """Samples consumed, the last batch in full."""
    epochs: float
    exact: bool
    """False when the number of updates is an estimate (batches in tokens, planned from the mean length)."""
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`37 updates = 37,888 samples = 3.007 epochs`."""
        name = "update" if self.updates == 1 else "updates"
        about = "" if self.exact else "about "
        return f"{about}{self.updates:,} {name} = {self.samples:,} samples = {self.epochs:.4g} epochs"


def total_updates(
    length: Quantity,
    batch_samples: int | None,
    samples: int,
    *,
    batch_tokens: int | None = None,
    tokens: int | None = None,
    allow_repeats: bool = False,
    next_position: Callable[[int], int] | None = None,
) -> Length:
    """Turn `3 epochs`, `500 updates`, `1e6 samples` or `1e9 tokens` into a number of updates.

    ::

        updates = ceil(total / B)        "37 updates = 37,888 samples = 3.007 epochs"

    Args:
        length: `recipe.length`.
        batch_samples: samples of an update, or None when the batch is counted in tokens.
        samples: samples of the training split (one epoch).
        batch_tokens: tokens of an update, when `batch_samples` is None.
        tokens: tokens of one epoch; needed for a length or a batch in tokens.
        allow_repeats: whether one batch may hold a sample twice (`batch.allow_repeats`).
        next_position: stream position -> position after the batch that starts there
            (`Batches.next_position`); makes the length of a run with token batches exact.

    Raises:
        RecipeError: a batch larger than the data, or a length in a unit that is none.
    """
    assert samples > 0, "the data room refuses empty splits"
    mean_tokens = tokens / samples if tokens else None
    refuse_large_batch(batch_samples, samples, batch_tokens, tokens, allow_repeats)
    mean_batch = float(batch_samples) if batch_samples else _mean_batch(batch_tokens, mean_tokens)
    target = target_samples(length, samples, mean_tokens)
    exact = True
    if batch_samples or next_position is None:
        updates = (
            int(length.amount) if target is None else max(1, math.ceil(target / mean_batch * (1 - _ROUNDING)))
        )
        consumed, exact = round(updates * mean_batch), batch_samples is not None
    else:
        updates, consumed = _walk(next_position, target, int(length.amount))
    return Length(
        updates=updates,
        samples=consumed,
        epochs=consumed / samples,
        exact=exact,
        warnings=few_updates(updates, mean_batch),
    )


def target_samples(length: Quantity, samples: int, mean_tokens: float | None) -> float | None:
    """Samples that the run shall consume at least; None when it is given in updates.

    Args:
        length: of the run, as the recipe has it.
        samples: of the training data.
        mean_tokens: of a training sample; None where `length` is not in tokens.
    """
    if length.unit == "updates":
        return None
    if length.unit == "samples":
        return length.amount
    if length.unit == "epochs":
        return length.amount * samples
    if length.unit == "tokens":
        assert mean_tokens is not None, "a length in tokens needs the token count of the data"
        return length.amount / mean_tokens
    what = f"found {length}; expected epochs, updates, samples or tokens"
    raise RecipeError([Problem(where="recipe", key="epochs", what=what)])


def _mean_batch(batch_tokens: int | None, mean_tokens: float | None) -> float:
    """Samples of an update when the batch is counted in tokens: the mean, at least one."""
    assert batch_tokens and mean_tokens, "a batch in tokens needs the token count of the data"
    return max(1.0, batch_tokens / mean_tokens)


def _walk(next_position: Callable[[int], int], target: float | None, updates: int) -> tuple[int, int]:
    """Cut the stream batch by batch until `target` samples, or for `updates` batches."""
    done = position = 0
    goal = math.inf if target is None else target * (1 - _ROUNDING)
    while position < goal and (target is not None or done < updates):
        position = next_position(position)
        done += 1
    return done, position


def refuse_large_batch(
    batch_samples: int | None, samples: int, batch_tokens: int | None, tokens: int | None, allow_repeats: bool
) -> None:
    """A batch that holds the whole data more than once is hardly meant.

    Args:
        batch_samples: of an update; None: it is given in tokens.
        samples: of the training data.
        batch_tokens: of an update.
        tokens: of the training data; None: not counted yet.
        allow_repeats: `batch.allow_repeats`.

    Raises:
        RecipeError: with both numbers.
    """
    if allow_repeats:
        return
    if batch_samples and batch_samples > samples:
        key, found, have = "batch.samples", f"{batch_samples:,} samples", f"{samples:,}"
    elif not batch_samples and batch_tokens and tokens and batch_tokens > tokens:
        key, found, have = "batch.tokens", f"{batch_tokens:,} tokens", f"{tokens:,}"
    else:
        return
    what = (
        f"one update takes {found}, but the training data has {have}; lower {key} to {have} or less, "
        "or set batch.allow_repeats: true to have samples more than once in a batch"
    )
    raise RecipeError([Problem(where="recipe", key=key, what=what)])


def few_updates(updates: int, mean_batch: float) -> tuple[str, ...]:
    """The warning about short runs, with the batch that would avoid it."""
    if updates >= FEW_UPDATES:
        return ()
    samples = updates * mean_batch
    smaller = max(2, int(samples // 100))  # a batch of 1 has nothing to compare, and most noise
    more = 100 if samples >= 200 else int(samples // smaller)
    remedy = (
        f"a batch of about {smaller:,} samples gives {more} updates"
        if smaller < mean_batch
        else "train longer"
    )
    name = "update" if updates == 1 else "updates"
    return (f"only {updates} {name} (fewer than {FEW_UPDATES}): the model may hardly move; {remedy}",)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How far a run is, at an update boundary."""

    updates: int = 0
    samples: int = 0
    tokens: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    """On any clock that only goes forward; differences count."""


def mark_crossed(
    every: Quantity, before: Clock, after: Clock, *, epoch_samples: int, total_samples: int
) -> bool:
    """Whether an interval fires at `after`: at the first update boundary at or beyond a multiple of `every`.

    ::

        floor(after / every) > floor(before / every)

    Args:
        every: `evaluate_every`, `checkpoint_every`, …; `end` fires at the end, `never` and a bare 0 never.
        before: the boundary before this update.
        after: the boundary after this update.
        epoch_samples: samples of one epoch.
        total_samples: samples of the whole run.
    """
    if every.unit == "end":
        return before.samples < total_samples <= after.samples
    if every.unit in ("never", "none") or every.amount == 0:
        return False
    if every.unit in ("epochs", "percent"):
        whole = epoch_samples if every.unit == "epochs" else total_samples / 100
        return _multiples(after.samples, every.amount * whole) > _multiples(
            before.samples, every.amount * whole
        )
    name = "seconds" if every.unit == "s" else every.unit
    return _multiples(getattr(after, name), every.amount) > _multiples(getattr(before, name), every.amount)


def _multiples(value: float, step: float) -> int:
    """Whole steps in `value`, forgiving the rounding of the step."""
    return math.floor(value / step * (1 + _ROUNDING))
