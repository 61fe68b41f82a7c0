"""From runs that were trained to a target to the trade-off, a table and a recommendation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from bigbatch.report.points import PointRow
from bigbatch.report.scale import BatchLine, ScaleView
from bigbatch.report.sweep import SweepView
from bigbatch.rules.critical_batch import Interval, Tradeoff, Trial, bootstrap, cheapest_batch, fit_tradeoff
from bigbatch.study.targets import Reached, Target, Unit, reached_by
from bigbatch.units import show_seconds

Found = Sequence[tuple[PointRow, Reached]]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What was found."""

    view: ScaleView
    trials: tuple[Trial, ...]
    tradeoff: Tradeoff | None
    """None: fewer than two batches reached the target."""
    intervals: Mapping[str, Interval] | None
    """90 %, over seeds; None without repetitions."""
    recommended: float | None

    def to_json(self) -> dict[str, object]:
        """Contents of scale.json; an infinite end of an interval is null."""
        tradeoff = self.tradeoff
        intervals = self.intervals or {}
        return {
            "target": self.view.target,
            "unit": self.view.unit,
            "updates_min": tradeoff and tradeoff.updates_min,
            "samples_min": tradeoff and tradeoff.samples_min,
            "critical_batch": tradeoff and tradeoff.critical_batch if tradeoff and tradeoff.bounded else None,
            "error": tradeoff and tradeoff.error,
            "intervals": {
                name: [one.low, one.high if math.isfinite(one.high) else None]
                for name, one in intervals.items()
            },
            "recommended_batch": self.recommended,
            "batches": [asdict(line) for line in self.view.lines],
            "runs": [asdict(trial) for trial in self.trials],
        }


def analyse(sweep: SweepView, folder: Path, target: Target, unit: Unit) -> Scaling:
    """Read the finished runs of a sweep over `batch.UNIT` and `seed`, and fit them.

    Args:
        sweep: the points so far.
        folder: the sweep's.
        target: what they were trained to.
        unit: of the batch.
    """
    key = f"batch.{unit}"
    found = [
        (row, one) for row in sweep.rows if row.done and (one := reached_by(folder / row.run, target, unit))
    ]
    trials = tuple(
        Trial(batch=float(row.values[key]), samples=one.amount, reached=one.reached, seed=row.values["seed"])
        for row, one in found
    )
    tradeoff = intervals = None
    if len({trial.batch for trial in trials if trial.reached}) > 1:
        tradeoff, intervals = fit_tradeoff(trials), bootstrap(trials)
    lines = _lines(found, key, tradeoff)
    recommended = _recommended(lines, tradeoff)
    view = ScaleView(
        sweep=replace(
            sweep, rows=_with_targets(sweep.rows, found, unit), notes=(*sweep.notes, *_censored(lines, unit))
        ),
        target=f"{target.metric} {target.value:g}",
        unit=unit,
        lines=lines,
        points=tuple(
            (trial.batch, one.updates, one.amount)
            for trial, (_, one) in zip(trials, found, strict=True)
            if one.reached
        ),
        updates_at=tradeoff.updates if tradeoff else None,
        critical=_critical(tradeoff, intervals, lines, unit),
        advice=_advice(recommended, tradeoff, lines, unit),
    )
    return Scaling(view=view, trials=trials, tradeoff=tradeoff, intervals=intervals, recommended=recommended)


def _lines(found: Found, key: str, tradeoff: Tradeoff | None) -> tuple[BatchLine, ...]:
    lines = []
    for batch in sorted({float(row.values[key]) for row, _ in found}):
        runs = [one for row, one in found if float(row.values[key]) == batch]
        reached = [one for one in runs if one.reached]
        each = median(one.update_seconds for one in runs)
        lines.append(
            BatchLine(
                batch=batch,
                runs=len(runs),
                reached=len(reached),
                updates=median(one.updates for one in reached) if reached else None,
                amount=median(one.amount for one in reached) if reached else None,
                fitted_updates=tradeoff and tradeoff.updates(batch),
                fitted_amount=tradeoff and tradeoff.samples(batch),
                update_seconds=each,
                seconds=tradeoff and tradeoff.updates(batch) * each,
            )
        )
    return tuple(lines)


def _with_targets(rows: Sequence[PointRow], found: Found, unit: Unit) -> tuple[PointRow, ...]:
    """The rows with `to_target.updates` and `to_target.samples`; empty where it was not reached."""
    known = {row.run: one for row, one in found if one.reached}

    def figures(row: PointRow) -> dict[str, float | None]:
        one = known.get(row.run)
        here = {"to_target.updates": one.updates, f"to_target.{unit}": one.amount} if one else {}
        return {**row.figures, **here}

    return tuple(replace(row, figures=figures(row)) for row in rows)


def _censored(lines: Sequence[BatchLine], unit: Unit) -> list[str]:
    """Runs that never reached the target are said, and count as bounds."""
    return [
        f"Batch {line.batch:,.0f}: {line.runs - line.reached} of {line.runs} runs did not reach the target within "
        f"the length; the fit takes their {unit} as a lower bound."
        for line in lines
        if line.reached < line.runs
    ]


def _recommended(lines: Sequence[BatchLine], tradeoff: Tradeoff | None) -> float | None:
    """Among batches that reached the target with every seed (else with any): the cheapest of the fastest."""
    sure = [line for line in lines if line.reached == line.runs] or [line for line in lines if line.reached]
    if tradeoff is None:
        return None
    return cheapest_batch(tradeoff, {line.batch: line.update_seconds for line in sure})


def _critical(
    tradeoff: Tradeoff | None,
    intervals: Mapping[str, Interval] | None,
    lines: Sequence[BatchLine],
    unit: Unit,
) -> str:
    """The critical batch with its interval, or why there is none."""
    if tradeoff is None:
        return (
            "The critical batch is not known: it needs runs at two batches or more that reached the target."
        )
    if not tradeoff.bounded:
        above = tradeoff.critical_batch > lines[-1].batch
        side, edge, word = (
            ("above", lines[-1].batch, "half") if above else ("below", lines[0].batch, "as many")
        )
        return (
            f"The critical batch lies {side} the batches that were tried ({edge:,.0f} {unit} is the "
            f"{'largest' if above else 'smallest'}): twice the batch takes {word} the updates everywhere."
        )
    words = f"The critical batch is about {_round(tradeoff.critical_batch)} {unit}"
    if intervals is None:
        return f"{words}; with one seed a batch there is no interval."
    one = intervals["critical_batch"]
    high = _round(one.high) if math.isfinite(one.high) else "more than was tried"
    low = _round(one.low) if one.low > 0 else "less than was tried"
    return (
        f"{words} (90 % interval over seeds: {low} to {high}): there a run takes twice the fewest updates, "
        f"{_round(tradeoff.updates_min)}, and twice the fewest {unit}, {_round(tradeoff.samples_min)}."
    )


def _advice(
    recommended: float | None, tradeoff: Tradeoff | None, lines: Sequence[BatchLine], unit: Unit
) -> tuple[str, ...]:
    """One recommendation, and what changes it."""
    if recommended is None or tradeoff is None:
        return ("No recommendation yet: fewer than two batches reached the target.",)
    line = next(line for line in lines if line.batch == recommended)
    assert line.seconds is not None
    first = (
        f"Use about {_round(recommended)} {unit}: on this machine it reaches the target in about "
        f"{show_seconds(line.seconds)}, and no batch that was tried is more than 5 % faster."
    )
    more = tradeoff.samples(recommended) / tradeoff.samples_min if tradeoff.samples_min else math.inf
    cost = f"It takes {more:.2f} times the fewest {unit}." if tradeoff.bounded else ""
    larger = tradeoff.critical_batch
    if tradeoff.bounded and larger > 1.5 * recommended:
        cost += (
            f" With more machines, up to about {_round(larger)} {unit} are worth using: "
            f"{_round(tradeoff.updates(larger))} updates instead of {_round(tradeoff.updates(recommended))}."
        )
    return tuple(words for words in (first, cost.strip()) if words)


def _round(value: float) -> str:
    """Two significant digits from 100 on: the fit knows no more."""
    if value < 100:
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.0f}"
