"""Seconds of training and of evaluation, from a few measured micro-batches; what else the machine did meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bigbatch.facts import CalibrationFacts
from bigbatch.rules.clocks import Length
from bigbatch.rules.ramp import Ramp
from bigbatch.units import Quantity

_NOTICED = 1.15
"""Threads that were kept from running by less than this factor were not kept from it by other work."""
_CROWDED = 0.25
"""Cores that others use, from which on a machine whose cores are all taken is called busy."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """CPU time beside wall time, over the seconds of measuring."""

    wall_seconds: float
    cpu_seconds: float
    """Of this process, all threads."""
    waited_seconds: float
    """In which threads of this process could have run and had no core, summed over threads."""
    others_cores: float
    """Cores that other processes kept busy on average (other machines on this one too, where it is virtual)."""
    cores: int
    """Of the machine."""

    @property
    def slowdown(self) -> float:
        """How many times as long everything took as it would have taken alone."""
        return (self.cpu_seconds + self.waited_seconds) / max(self.cpu_seconds, 1e-9)

    @property
    def busy(self) -> bool:
        """Whether other work slowed this process down: what was timed meanwhile is not this machine's speed."""
        own = self.cpu_seconds / max(self.wall_seconds, 1e-9)
        crowded = self.others_cores > _CROWDED and own + self.others_cores > 0.9 * self.cores
        return self.slowdown > _NOTICED or crowded

    def __str__(self) -> str:
        cores = "core" if self.cores == 1 else "cores"
        return f"other processes use {min(self.others_cores, self.cores):.1f} of {self.cores} {cores}"


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What measuring before the run left out, and why."""

    load: Load | None = None
    """None: it was not looked at, or the system does not tell."""
    writing_seconds: Mapping[str, float] = field(default_factory=dict)
    """Split -> what it takes to write all its texts once; empty where evaluations write none."""
    sizes_not_tried: str = ""
    """Why one size of micro-batch was measured alone; empty: others were tried, or the user named it."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run has to get through."""

    length: Length | None = None
    """Of the training, from an exact walk over its batches; None: counted from the mean length."""
    ramp: Ramp | None = None
    """How the batch grows."""
    validation_tokens: int = 0
    """Of all validation sets, once."""
    test_tokens: int = 0
    """Of the test split, read once, at the end."""
    derived_tokens: int = 0
    """Of all splits, where the task needs columns of the model that the run starts from; 0 where it needs none."""
    measuring: Measuring = field(default_factory=Measuring)
    """What measuring left out, and what else the machine did."""


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Predicted wall times."""

    update: float
    train: float
    """All updates, without evaluation, checkpoints and start-up."""
    evaluate: float
    """All evaluations of the run."""
    evaluations: int
    """Passes over the validation sets."""
    writings: int = 0
    """Those that write the texts of the validation sets, too."""


def predict_seconds(
    calibration: CalibrationFacts,
    length: Length,
    computed_tokens: int,
    *,
    evaluate_every: Quantity | None = None,
    generate_every: Quantity | None = None,
    work: Work | None = None,
) -> Seconds:
    """Wall times of a run.

    ::

        update   = computed tokens x seconds per token + seconds per update
        train    = updates x update
        evaluate = (evaluations x validation tokens + test tokens) x forward seconds per token
                   + writings x seconds of the validation sets' texts + those of the test split's

    Args:
        calibration: measured speeds.
        length: of the run.
        computed_tokens: of an update, padding included.
        evaluate_every: `run.evaluate_every`.
        generate_every: `run.generate_every`.
        work: tokens to evaluate.
    """
    update = computed_tokens * calibration.seconds_per_token + calibration.seconds_per_update
    train = length.updates * update
    work = work or Work()
    evaluations = 0
    if work.validation_tokens and evaluate_every is not None:
        evaluations = count_evaluations(evaluate_every, length, computed_tokens, train)
    tokens = evaluations * work.validation_tokens + work.test_tokens
    evaluate = tokens * calibration.seconds_per_token_forward
    writings = _writings(evaluations, generate_every)
    for split, seconds in work.measuring.writing_seconds.items():
        evaluate += seconds * (1 if split == "test" else writings)
    return Seconds(update=update, train=train, evaluate=evaluate, evaluations=evaluations, writings=writings)


def _writings(evaluations: int, every: Quantity | None) -> int:
    """How many of the evaluations write texts: every so many, and the last."""
    if every is None or every.unit != "evaluations":
        return min(1, evaluations)
    return -(-evaluations // max(1, round(every.amount)))


def count_evaluations(every: Quantity, length: Length, update_tokens: float, train_seconds: float) -> int:
    """How often the validation sets are read: each time the interval fires, and at the end in any case.

    Args:
        every: `run.evaluate_every`.
        length: of the run.
        update_tokens: computed tokens of an update.
        train_seconds: of the whole run, without evaluations.
    """
    totals = {
        "updates": length.updates,
        "samples": length.samples,
        "epochs": length.epochs,
        "tokens": length.updates * update_tokens,
        "percent": 100.0,
        "s": train_seconds,
    }
    if every.unit not in totals or not every.amount:
        return 1
    fired = min(length.updates, int(totals[every.unit] / every.amount * (1 + 1e-9)))
    fires_at_the_end = totals[every.unit] - fired * every.amount < totals[every.unit] / length.updates
    return fired if fired and fires_at_the_end else fired + 1
