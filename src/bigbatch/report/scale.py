"""The page of `bigbatch scale`: what a larger batch saves and costs, and what to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigbatch.report import figures, svg
from bigbatch.report.page import write_atomic, write_figure
from bigbatch.report.scales import Points
from bigbatch.report.sweep import SweepView, render_sweep, write_sweep
from bigbatch.report.text import clean, show_number
from bigbatch.units import show_seconds

_CURVE_POINTS = 40


@dataclass(frozen=True, kw_only=True)
class BatchLine:
    """All runs with one batch."""

    batch: float
    runs: int
    reached: int
    """Of them, those that reached the target."""
    updates: float | None
    """Median over the runs that reached it; None: none did."""
    amount: float | None
    """Samples (or tokens), likewise."""
    fitted_updates: float | None
    """By the curve; None without one."""
    fitted_amount: float | None
    update_seconds: float
    """Of one update, median over the runs."""
    seconds: float | None
    """Predicted training time to the target on this hardware: fitted updates times their seconds."""


@dataclass(frozen=True, kw_only=True)
class ScaleView:
    """What the page is made from."""

    sweep: SweepView
    target: str
    """`f1_macro 0.75`."""
    unit: str
    """`samples` or `tokens`."""
    lines: tuple[BatchLine, ...]
    points: tuple[tuple[float, float, float], ...]
    """(batch, updates, amount) of every run that reached the target."""
    updates_at: Callable[[float], float] | None
    """The fitted curve: batch -> updates; None without one."""
    critical: str
    """The critical batch in words."""
    advice: tuple[str, ...]
    """What to use, the first sentence alone is enough."""


def write_scale(folder: Path, view: ScaleView) -> None:
    """Write what a sweep writes, with the findings in front, and their figures."""
    write_sweep(folder, view.sweep)
    for name, chart in scale_charts(view).items():
        write_figure(folder / "figures" / f"{name}.svg", chart)
    write_atomic(folder / "report.html", render_scale(view))


def render_scale(view: ScaleView) -> str:
    """The page as one HTML text."""
    findings = {
        "advice": [clean(line) for line in view.advice],
        "critical": clean(view.critical),
        "target": clean(view.target),
        "charts": [(chart.title, figures.responsive(chart)) for chart in scale_charts(view).values()],
        "heads": table_heads(view),
        "rows": table_rows(view),
    }
    return render_sweep(view.sweep, template="scale.html.j2", findings=findings)


def table_heads(view: ScaleView) -> list[str]:
    """Of the table, for page and terminal."""
    unit = view.unit.capitalize()
    return ["Batch", "Reached", "Updates", "Fitted", unit, "Fitted", "Per update", "Predicted time"]


def table_rows(view: ScaleView) -> list[list[str]]:
    """Cells of the table, a row a batch."""
    return [
        [
            show_number(line.batch),
            f"{line.reached} of {line.runs}",
            _whole(line.updates),
            _whole(line.fitted_updates),
            _whole(line.amount),
            _whole(line.fitted_amount),
            _brief(line.update_seconds),
            "–" if line.seconds is None else show_seconds(line.seconds),
        ]
        for line in view.lines
    ]


def lines_of(view: ScaleView) -> list[str]:
    """Table and advice for a terminal."""
    rows = [table_heads(view), *table_rows(view)]
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [f"until {view.target} on validation data:", *table, "", view.critical, *view.advice]


def scale_charts(view: ScaleView) -> dict[str, svg.Chart]:
    """File name -> chart; empty where nothing reached the target."""
    if not view.points:
        return {}
    updates = [(batch, count) for batch, count, _ in view.points]
    amounts = [(batch, amount) for batch, _, amount in view.points]
    title = f"{view.unit.capitalize()} to the target"
    wanted = (
        ("updates_to_target", "Updates to the target", "updates", updates, _updates),
        (f"{view.unit}_to_target", title, view.unit, amounts, _amount),
    )
    charts = {
        name: _chart(view, title, label, measured, curve(view))
        for name, title, label, measured, curve in wanted
    }
    times = [(line.batch, line.seconds) for line in view.lines if line.seconds]
    if times:
        charts["predicted_seconds"] = _chart(view, "Predicted time to the target", "s", times, [])
    return charts


def _chart(view: ScaleView, title: str, label: str, points: Points, curve: Points) -> svg.Chart:
    measured = svg.Series(
        name="measured" if curve else title, points=sorted(points), style="dots" if curve else "linked"
    )
    fitted = [svg.Series(name="fitted", points=curve, tone=2, style="dashed")] if curve else []
    said = ", ".join(f"{show_number(x)}: {show_number(y)}" for x, y in sorted(points))
    return svg.Chart(
        title=title,
        description=f"{title} by batch. {said}.",
        x_label=f"batch, {view.unit}",
        y_label=label,
        series=[measured, *fitted],
        log=True,
        x_log=True,
    )


def _updates(view: ScaleView) -> Points:
    curve = view.updates_at
    return [] if curve is None else [(batch, curve(batch)) for batch in _batches(view.lines)]


def _amount(view: ScaleView) -> Points:
    return [(batch, batch * updates) for batch, updates in _updates(view)]


def _batches(lines: Sequence[BatchLine]) -> list[float]:
    """Batches evenly spaced in the logarithm, from the least to the largest."""
    low, high = math.log(lines[0].batch), math.log(lines[-1].batch)
    return [math.exp(low + (high - low) * step / (_CURVE_POINTS - 1)) for step in range(_CURVE_POINTS)]


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _brief(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
