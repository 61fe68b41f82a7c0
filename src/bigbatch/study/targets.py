"""When a run reached its target, read from its records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from bigbatch.errors import UsageError
from bigbatch.metrics.watched import figure_of, validation_splits
from bigbatch.report.facts import number, step_of
from bigbatch.report.read import read_run

Unit = Literal["samples", "tokens"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure of the validation data, and how good it is to be."""

    metric: str
    """`f1_macro`, `loss`, or `hard.f1_macro` of a named split."""
    value: float
    larger_is_better: bool = True

    def met(self, value: float) -> bool:
        """Whether a figure is good enough."""
        return value >= self.value if self.larger_is_better else value <= self.value


@dataclass(frozen=True, kw_only=True)
class Reached:
    """How far a run had to go."""

    reached: bool
    amount: float
    """Samples (or tokens) until the target; of a run that never reached it, all that it had."""
    updates: float
    seconds: float
    """Training time of those updates, without evaluations."""
    update_seconds: float
    """Median of its updates."""


def read_target(word: str) -> Target:
    """`f1_macro=.75`; whether larger is better is not known yet.

    Raises:
        UsageError: no name, or no number.
    """
    name, _, number = word.partition("=")
    try:
        return Target(metric=name.strip(), value=float(number)) if name.strip() else _refuse(word)
    except ValueError:
        return _refuse(word)


def _refuse(word: str) -> Target:
    raise UsageError(f"--target {word}: expected METRIC=NUMBER, such as f1_macro=.75 or loss=.5")


def reached_by(run: Path, target: Target, unit: Unit) -> Reached | None:
    """Where between two evaluations the figure crossed the target, on a straight line between them.

    Args:
        run: the run directory.
        target: what was to be reached.
        unit: what the batch is counted in.

    Returns:
        None for a run without updates or evaluations.
    """
    data = read_run(run)
    columns = {name: data.updates.column(name).to_pylist() for name in ("step", unit, "seconds")}
    splits = validation_splits(dict.fromkeys(str(record["split"]) for record in data.evals))
    if not columns["step"] or not splits:
        return None
    at = dict(zip(columns["step"], columns[unit], strict=True))
    split, metric = figure_of(target.metric, splits)
    seen = [
        (step_of(record), value)
        for record in data.evals
        if record["split"] == split
        and (value := number(record.get(metric))) is not None
        and step_of(record) in at
    ]
    updates, hit = _crossing(seen, target)
    whole = int(updates)
    amount = _between({0: 0, **at}, updates)
    return Reached(
        reached=hit,
        amount=amount if hit else float(columns[unit][-1]),
        updates=updates if hit else float(columns["step"][-1]),
        seconds=sum(columns["seconds"][:whole])
        + (updates - whole) * columns["seconds"][min(whole, len(at) - 1)]
        if hit
        else sum(columns["seconds"]),
        update_seconds=median(columns["seconds"]),
    )


def _crossing(seen: list[tuple[int, float]], target: Target) -> tuple[float, bool]:
    """Updates until the target, and whether it was reached at all."""
    before: tuple[int, float] | None = None
    for step, value in seen:
        if target.met(value):
            if before is None or before[1] == value:
                return float(step), True
            share = (target.value - before[1]) / (value - before[1])
            return before[0] + share * (step - before[0]), True
        before = step, value
    return float(seen[-1][0]) if seen else 0.0, False


def _between(at: Mapping[int, float], updates: float) -> float:
    """The amount consumed after so many updates, a fraction of one included."""
    whole = int(updates)
    rest = updates - whole
    return at[whole] + (rest * (at[whole + 1] - at[whole]) if rest else 0.0)
