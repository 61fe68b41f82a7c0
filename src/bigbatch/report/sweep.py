"""The page of a sweep: a table over seeds, the chosen figure over the first axis, and every point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bigbatch.report import figures, svg
from bigbatch.report.page import render, write_atomic, write_figure
from bigbatch.report.points import (
    Group,
    PointRow,
    chosen_figure,
    figure_names,
    groups_of,
    results_csv,
    value_of,
)
from bigbatch.report.text import clean, shorten, show_number, title_of
from bigbatch.units import show_seconds

_LOG_FROM = 8
"""An axis of numbers whose largest is this many times its least is drawn logarithmically."""
_SHOWN_FIGURES = 4


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """What the page is made from."""

    name: str
    command: str
    """What made it, to be typed again."""
    seeds: tuple[str, ...]
    """Axes that only repeat: the table takes mean and spread over them."""
    rows: tuple[PointRow, ...]
    figure: str | None = None
    """The figure it is judged by, as asked for."""
    notes: tuple[str, ...] = ()
    """What a reader must know first: points left out, a budget that was spent."""


def write_sweep(folder: Path, view: SweepView) -> None:
    """Write results.csv, figures/*.svg and report.html; each is replaced in one step."""
    write_atomic(folder / "results.csv", results_csv(view.rows))
    for name, chart in sweep_charts(view).items():
        write_figure(folder / "figures" / f"{name}.svg", chart)
    write_atomic(folder / "report.html", render_sweep(view))


def sweep_charts(view: SweepView) -> dict[str, svg.Chart]:
    """File name -> chart: the chosen figure, and the training time, over the first axis."""
    charts = {}
    for name in filter(None, (chosen_figure(view.rows, view.figure), "train_seconds")):
        chart = figure_over_axis(view, name)
        if any(one.points for one in chart.series):
            charts[name] = chart
    return charts


def figure_over_axis(view: SweepView, name: str) -> svg.Chart:
    """One curve for each setting of the other axes: the mean over seeds, with every point behind it."""
    groups = [group for group in groups_of(view.rows, view.seeds) if group.spread(name) is not None]
    keys = [key for key in (view.rows[0].values if view.rows else {}) if key not in view.seeds]
    axis = keys[0] if keys else ""
    places, names = _places([group.values.get(axis, "") for group in groups_of(view.rows, view.seeds)])
    curves: dict[str, list[Group]] = {}
    for group in groups:
        rest = ", ".join(f"{key} {group.values[key]}" for key in keys[1:])
        curves.setdefault(clean(rest) or title_of(name), []).append(group)
    series = []
    for number, (label, members) in enumerate(curves.items()):
        tone = 1 + number % 8
        means = {places[group.values.get(axis, "")]: group.spread(name) for group in members}
        every = [
            (places[group.values.get(axis, "")], value)
            for group in members
            for row in group.done
            if (value := value_of(row, name)) is not None
        ]
        if len(every) > len(members):
            series.append(svg.Series(name=f"{label}, each seed", points=every, tone=tone, style="dots"))
        points = [(x, spread.mean) for x, spread in sorted(means.items()) if spread is not None]
        series.append(svg.Series(name=label, points=points, tone=tone, style="line" if names else "linked"))
    xs = list(places.values())
    return svg.Chart(
        title=title_of(name),
        description=_travel(name, series),
        x_label=clean(axis) or "point",
        y_label="s" if name == "train_seconds" else "",
        series=series,
        x_log=not names and min(xs, default=0) > 0 and max(xs) >= _LOG_FROM * min(xs),
        x_names=names,
    )


def _places(values: Sequence[str]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Where each value of an axis is drawn; with names where they are no numbers."""
    distinct = list(dict.fromkeys(values))
    try:
        return {value: float(value) for value in distinct}, ()
    except ValueError:
        return {value: float(place) for place, value in enumerate(distinct)}, tuple(distinct)


def _travel(name: str, series: Sequence[svg.Series]) -> str:
    ends = [
        f"{one.name}: {', '.join(show_number(y) for _, y in one.points)}"
        for one in series
        if one.style != "dots"
    ]
    return shorten(f"{title_of(name)} from left to right. {'; '.join(ends)}", 400) + "."


def render_sweep(
    view: SweepView, template: str = "sweep.html.j2", findings: Mapping[str, object] | None = None
) -> str:
    """The page as one HTML text; another template may show findings above the figures.

    Args:
        view: what was found.
        template: of the page.
        findings: what a page of another template shows first; None: nothing.
    """
    charts = sweep_charts(view)
    names = figure_names(view.rows)
    chosen = chosen_figure(view.rows, view.figure)
    first = [name for name in names if name == chosen]
    shown = [*first, *(name for name in names if name != chosen)][:_SHOWN_FIGURES]
    groups = groups_of(view.rows, view.seeds)
    done = sum(row.done for row in view.rows)
    return render(
        template,
        {
            "findings": findings,
            "name": clean(view.name),
            "lead": f"{done} of {len(view.rows)} points have a result.",
            "command": clean(view.command),
            "notes": [clean(note) for note in view.notes],
            "charts": [(chart.title, figures.responsive(chart)) for chart in charts.values()],
            "caption": _caption(view),
            "table": {
                "keys": [clean(key) for key in (groups[0].values if groups else {})],
                "names": ["Seeds", *map(clean, shown), "Updates", "Samples", "Training time"],
                "rows": [_group_view(group, shown) for group in groups],
            },
            "points": [_row_view(row, shown) for row in view.rows],
            "point_names": [*map(clean, shown), "Updates", "Samples", "Training time"],
        },
    )


def _caption(view: SweepView) -> str:
    if not view.seeds:
        return "One point a setting: the differences have no spread to be held against."
    return f"Mean ± standard deviation over {', '.join(map(clean, view.seeds))}; figures of the weights that were kept."


def _group_view(group: Group, shown: Sequence[str]) -> dict[str, object]:
    def text(name: str) -> str:
        spread = group.spread(name)
        return "–" if spread is None else str(spread)

    seconds = group.spread("train_seconds")
    return {
        "keys": [shorten(clean(value), 60) for value in group.values.values()],
        "cells": [
            f"{len(group.done)} of {len(group.rows)}",
            *map(text, shown),
            text("updates"),
            text("samples"),
            "–" if seconds is None else show_seconds(seconds.mean),
        ],
    }


def _row_view(row: PointRow, shown: Sequence[str]) -> dict[str, object]:
    numbers = [*(row.figures.get(name) for name in shown), row.updates, row.samples]
    return {
        "name": shorten(clean(", ".join(f"{key} {value}" for key, value in row.values.items())), 120),
        "cells": [
            *map(show_number, numbers),
            "–" if row.train_seconds is None else show_seconds(row.train_seconds),
        ],
        "reason": shorten(clean(row.exit_reason), 300),
        "link": f"{quote(row.run)}/report.html" if row.done else "",
    }
