"""What `auto` stands for: batch, length and learning rate of a first run, from what is known before it.

::

    first batch    16 samples, 32 from 5,000 training rows on; at most a quarter of the rows
    last batch     2 times the first, 8 times from 50,000, 16 times from 500,000 rows on    (by the measured noise)
    length         at most 10 sqrt(10,000 / rows) epochs, between 1 and 30; at least 300 updates of the first batch
                   (from random weights three times as much); too few rows to see a plateau: 160 updates
    rate           up to 32 samples: 3e-4 (384 / hidden)^2.4; with up to 8 classes at most 1e-4, or 1e-4 (384 / hidden)
                   where that is more, sqrt(classes / 8) times as much with more classes; from random weights
                   6e-4 (768 / hidden); at most 1e-3; of adapters 5e-4 at any width and with any number of classes;
                   sqrt(batch / 32) times that for more

The rate's line goes through what is usual for BERT (5e-5 at 768 hidden units, 3e-5 at 1,024; Devlin et al. 2019,
appendix A.3), and what this project found at 384; for random weights through GPT-2's size in Brown et al. 2020, table
2.1. Length and batch are of this project's own runs (docs/first-run.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from bigbatch.recipe.adapters import ADAPTER_LR

BASE_BATCH = 32
"""Most samples that rates are given for."""
MANY_ROWS = 5_000
FEWEST_VALIDATION_ROWS = 100
"""Rows from which on a plateau of validation can be told from noise."""
FIXED_UPDATES = 160
FEWEST_UPDATES = 300
MOST_EPOCHS = 30
PATIENCE = 2
"""Evaluations in a row without an improvement that make a plateau: one alone is too often luck."""
FEW_CLASSES = 8
FEW_CLASSES_LR = 1e-4
"""Of a model of width 384 that learns so many classes or fewer.

Measured at 1e-4 against 3e-4 (accuracy / macro F1 on test rows): tweets, 3 classes, .868 / .819 against .846 / .787; 8
classes of 1,583 : 1 .935 / .555 against .892 / .260; 8 classes of 20 rows 1.000 with both; 77 classes after two epochs
.834 against .877 on validation.
"""
UPDATES_AN_EPOCH = 100
"""Updates of the first batch in an epoch from which on it may grow."""
WARMUP_SHARE = 0.25
"""Most of a run that its warm-up may take."""
RATE_SHARE = 0.03
"""Most of a run that may be spent on the test of its rate."""
RATE_UPDATES = (20, 60)
"""Fewest and most updates of that test."""


@dataclass(frozen=True, kw_only=True)
class FirstRun:
    """What is known of data and model."""

    rows: int
    """Training samples."""
    validation_rows: int
    """Of the first validation split; 0: there is none."""
    watched: bool = True
    """Whether validation is evaluated while the run trains, so that a plateau can be seen."""
    hidden: int
    """Width of the model."""
    pretrained: bool
    adapters: bool = False
    """Whether adapters and a head alone are trained, beside weights that stay as they are."""
    classes: int = 0
    """Of a new head that tells them apart; 0: it does something else."""
    batch: int | None = None
    """Samples of an update where the recipe says how many."""
    grows: bool
    """Whether the noise of the gradient can be measured, so that the batch may grow by it."""
    coupled: bool = False
    """Whether samples of a batch teach each other (task match): a larger one is another, harder question."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Numbers with their reasons."""

    first_batch: int
    last_batch: int
    batch_reason: str
    epochs: float
    """At most, where `measured`."""
    measured: bool
    """Whether validation decides when the cool-down begins."""
    epochs_reason: str
    lr: float
    """At `base_batch`."""
    lr_reason: str
    base_batch: int


def first_run(known: FirstRun) -> Choices:
    """Decide what `auto` means for this data and model.

    Example:
        9,003 rows, 1,000 more for validation, a pretrained model of width 384: 32 growing to 64 samples, at most
        10.5 epochs, 3e-4.
    """
    first, last = _batch(known)
    epochs, measured, why = _length(known, known.batch or first)
    lr, lr_why = _rate(known)
    return Choices(
        first_batch=first,
        last_batch=last,
        batch_reason=_batch_reason(known, first, last),
        epochs=epochs,
        measured=measured,
        epochs_reason=why,
        lr=lr,
        lr_reason=lr_why,
        # Smaller batches train as well at the same rate, and sooner.
        base_batch=min(BASE_BATCH, known.batch or first),
    )


def _batch(known: FirstRun) -> tuple[int, int]:
    if known.coupled:
        wanted = 64 if known.rows < MANY_ROWS else 128
        size = _power_of_two(min(wanted, known.rows // 4))
        return size, size
    first = _power_of_two(min(16 if known.rows < MANY_ROWS else 32, known.rows // 4))
    times = 2 if known.rows < 50_000 else 8 if known.rows < 500_000 else 16
    # Few updates an epoch are not made fewer; and a batch of one has no noise to measure.
    return (
        first,
        first * times if known.grows and first > 1 and first * UPDATES_AN_EPOCH <= known.rows else first,
    )


def _batch_reason(known: FirstRun, first: int, last: int) -> str:
    rows = f"{known.rows:,} training rows"
    if known.coupled:
        return f"samples of a batch are each other's wrong answers; {rows}"
    if last == first:
        return f"{rows}; it stays so: " + (
            "too few rows for more" if known.grows else "its noise is not measured"
        )
    return f"{rows}; grows when the measured noise of the gradient is larger"


def _length(known: FirstRun, batch: int) -> tuple[float, bool, str]:
    rows = known.rows
    from_random = 1 if known.pretrained else 3
    most = 10 * math.sqrt(10_000 / rows) * from_random
    most = max(most, FEWEST_UPDATES * batch / rows, 1.0)
    most = _short(min(most, float(MOST_EPOCHS * from_random)))
    if known.validation_rows and not known.watched:
        why = "nothing is evaluated while the run trains (run.evaluate_every): half of what would be the most"
        return _short(max(1.0, most / 2)), False, why
    if known.validation_rows >= FEWEST_VALIDATION_ROWS:
        return most, True, "at most; a cool-down begins when validation no longer improves beyond chance"
    why = (
        f"{_counted(known.validation_rows)} too few to see a plateau"
        if known.validation_rows
        else "there is no validation data to see a plateau"
    )
    if known.validation_rows:
        fixed = max(FIXED_UPDATES * batch / rows, 5.0) * from_random
        return _short(min(fixed, most)), False, f"{why}: about {FIXED_UPDATES} updates"
    return _short(max(1.0, most / 2)), False, f"{why}: half of what would be the most"


def _counted(rows: int) -> str:
    return f"{rows} validation {'row is' if rows == 1 else 'rows are'}"


def _rate(known: FirstRun) -> tuple[float, str]:
    if known.adapters:
        lr, why = ADAPTER_LR["adamw"], "usual for adapters"
    elif known.pretrained:
        lr = min(1e-3, 3e-4 * (384 / known.hidden) ** 2.4)
        why = f"usual for pretrained weights of width {known.hidden:,}"
        if known.classes:
            # Few classes pull many rows one way: what the model knew is lost before they are told apart.
            most = FEW_CLASSES_LR * max(1.0, 384 / known.hidden)
            lr = min(lr, most * max(1.0, math.sqrt(known.classes / FEW_CLASSES)))
            why += f" and {known.classes:,} class{'es' if known.classes > 1 else ''}"
    else:
        lr = min(1e-3, 6e-4 * 768 / known.hidden)
        why = f"usual for random weights of width {known.hidden:,}"
    why += f" up to {BASE_BATCH} samples, sqrt(batch / {BASE_BATCH}) times that for more"
    return _two_digits(lr), why


def warmup_updates(usual: float, updates: float) -> float:
    """Updates of the warm-up of a run of so many: the usual ones, in a very short run fewer.

    Example:
        >>> warmup_updates(40, 1000), warmup_updates(40, 45)
        (40, 11)
    """
    return min(usual, max(1, int(updates * WARMUP_SHARE)))


# ---------------------------------------------------------------- the test of the rate


def rate_test_updates(updates: int) -> int:
    """Updates that the test of the rate may take in a run of so many; 0: none, the run is too short."""
    fewest, most = RATE_UPDATES
    allowed = int(updates * RATE_SHARE)
    return min(allowed, most) if allowed >= fewest else 0


FROM, TO = 1 / 4, 32
"""The test raises the rate from and to these multiples of the usual one."""
MARGIN = 8
"""The rate that is used is this much smaller than the one at which the loss turns."""
_NEW = 0.3
"""Weight of the newest loss in the smoothed one."""
MOST_CHANGE = 4
"""The usual rate is changed by at most this factor."""


def tested_rates(usual: float, updates: int) -> list[float]:
    """Rates of the test's updates: the same factor from one to the next."""
    return [usual * FROM * (TO / FROM) ** (number / (updates - 1)) for number in range(updates)]


def rate_found(usual: float, rates: list[float], losses: list[float]) -> tuple[float, str]:
    """The rate to train with, and why.

    ::

        turn  = the last rate at which the smoothed loss is as small as it ever is, give or take twice its noise, if
            behind it the loss rises by half of what it fell, and by six times its noise
        found = turn / 8 on a grid of powers of 2 where that is less than half of the usual rate; else the usual one

    It is never raised: so short a test sees the rates that break a run at once, not those that cost it later. The grid
    makes the choice the same on every split of the work, whose losses differ by rounding.

    Args:
        usual: of `first_run`.
        rates: as tested.
        losses: of these updates, nats; not finite: the loss has turned.

    Reference:
        Smith 2017, Cyclical Learning Rates for Training Neural Networks (arXiv 1506.01186), section 3.3.
    """
    smooth: list[float] = []
    for loss in losses:
        before = smooth[-1] if smooth else loss
        smooth.append((1 - _NEW) * before + _NEW * loss if math.isfinite(loss) else math.inf)
    lowest = min(smooth)
    finite = [loss for loss in losses if math.isfinite(loss)]
    steps = sorted(abs(after - before) for before, after in pairwise(finite))
    # Of one loss: the median of |differences| is .95 of it; of the average of losses less.
    noise = (steps[len(steps) // 2] / 0.954 if steps else 0.0) * math.sqrt(_NEW / (2 - _NEW))
    last = max(number for number, loss in enumerate(smooth) if loss <= lowest + 2 * noise)
    rise, fall = max(smooth[last:]) - lowest, smooth[0] - lowest
    if not rise > max(0.5 * fall, 6 * noise):
        return usual, f"the loss did not turn up to {rates[-1]:.1e}: the usual rate"
    turn = rates[last]
    steps_of_two = round(math.log2(turn / MARGIN / usual))
    most = round(math.log2(MOST_CHANGE))
    # Within a factor of two, the usual rate is known better than the test can tell.
    changed = 0 if steps_of_two >= -1 else max(-most, steps_of_two)
    found = _two_digits(usual * 2.0**changed)
    told = "as usual" if changed == 0 else f"{2.0**changed:g} times the usual {usual:g}"
    return found, f"the loss turned at about {turn:.1e}: {told}"


# ---------------------------------------------------------------- the cool-down


def cool_down_end(position: int, share: float) -> float:
    """Samples at which a cool-down that begins at `position` ends, so that it is this share of the whole.

    Example:
        >>> cool_down_end(800, 0.2)
        1000.0
    """
    return position / (1.0 - share)


def _power_of_two(most: int) -> int:
    return 1 << (max(most, 1).bit_length() - 1)


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")


def _short(epochs: float) -> float:
    """Three digits are enough for a bound."""
    return float(f"{epochs:.3g}")
