"""What the points of a sweep came to: rows, groups over seeds, and results.csv."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bigbatch.report.text import clean, show_number

_PREFERRED = ("f1_macro", "accuracy", "r2", "matthews_corrcoef", "loss")
_FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True, kw_only=True)
class PointRow:
    """One point: what was set, and what came out so far."""

    values: Mapping[str, str]
    """Recipe key -> value, as typed."""
    run: str
    """Its run directory, relative to the sweep's folder."""
    exit_reason: str
    """The run's own, or why there is no result: `not started`, `interrupted`, `failed: …`."""
    updates: int | None = None
    samples: int | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """`test.f1_macro` -> value, of the weights that were kept."""
    train_seconds: float | None = None

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.updates is not None


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One figure over the points of a group."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None of a single point."""
    count: int

    def __str__(self) -> str:
        if self.deviation is None:
            return show_number(self.mean)
        return f"{show_number(self.mean)} ± {show_number(self.deviation)}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Points that differ in their seeds only."""

    values: Mapping[str, str]
    """Without the seeds."""
    rows: tuple[PointRow, ...]

    @property
    def done(self) -> tuple[PointRow, ...]:
        return tuple(row for row in self.rows if row.done)

    def spread(self, name: str) -> Spread | None:
        """Mean and spread of `updates`, `samples`, `train_seconds` or a figure; None where nobody has it."""
        found = [value for row in self.done if (value := value_of(row, name)) is not None]
        if not found:
            return None
        deviation = statistics.stdev(found) if len(found) > 1 else None
        return Spread(mean=statistics.fmean(found), deviation=deviation, count=len(found))


def value_of(row: PointRow, name: str) -> float | None:
    """A finite number of a row, by its name."""
    value = getattr(row, name) if name in ("updates", "samples", "train_seconds") else row.figures.get(name)
    return None if value is None or not math.isfinite(value) else float(value)


def groups_of(rows: Sequence[PointRow], seeds: Sequence[str]) -> list[Group]:
    """Rows that are equal in everything but the keys in `seeds`, in the order in which they first appear."""
    found: dict[tuple[tuple[str, str], ...], list[PointRow]] = {}
    for row in rows:
        key = tuple((name, value) for name, value in row.values.items() if name not in seeds)
        found.setdefault(key, []).append(row)
    return [Group(values=dict(key), rows=tuple(members)) for key, members in found.items()]


def figure_names(rows: Sequence[PointRow]) -> list[str]:
    """Every `split.metric` that some row has, splits in the order of the results, `test` first."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    return sorted(names, key=lambda name: not name.startswith("test."))


def chosen_figure(rows: Sequence[PointRow], wanted: str | None) -> str | None:
    """The figure a sweep is judged by: `wanted` (with or without its split), else the usual one of the first split."""
    names = figure_names(rows)
    if wanted is not None:
        return next((name for name in names if wanted in (name, name.partition(".")[2])), None)
    split = names[0].partition(".")[0] if names else ""
    return next(
        (f"{split}.{name}" for name in _PREFERRED if f"{split}.{name}" in names), names[0] if names else None
    )


def results_csv(rows: Sequence[PointRow]) -> str:
    """One row a point: the axes, updates, samples, the figures of each split, train_seconds, exit_reason, run."""
    keys = list(rows[0].values) if rows else []
    figures = figure_names(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = [*keys, "updates", "samples", *figures, "train_seconds", "exit_reason", "run"]
    writer.writerow([_cell(name) for name in head])
    for row in rows:
        numbers = [row.updates, row.samples, *(row.figures.get(name) for name in figures), row.train_seconds]
        texts = [_cell(row.exit_reason), _cell(row.run)]
        cells = [*(_cell(row.values[key]) for key in keys), *map(_number, numbers), *texts]
        writer.writerow(cells)
    return out.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(value)


def _cell(text: str) -> str:
    """Text that no spreadsheet runs as a formula."""
    shown = clean(text)
    try:
        float(shown)
    except ValueError:
        return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown
    return shown
