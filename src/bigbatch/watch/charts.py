"""The charts of the runs that were chosen: one run in detail, or several over each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from bigbatch.report import svg
from bigbatch.report.figures import responsive, small
from bigbatch.report.recipes import flat_recipe
from bigbatch.report.scales import Points, smoothed, thinned
from bigbatch.report.text import clean, shorten, show_number, title_of
from bigbatch.rules.headline import in_order, telling
from bigbatch.watch.curves import Curve
from bigbatch.watch.observed import Observed

_QUIET_EVENTS = ("checkpoint", "saved", "started", "finished")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run, what it is called on the page, and its colour."""

    name: str
    tone: int
    run: Observed


def chosen(run: Observed) -> tuple[str, str, Curve] | None:
    """(split, name, curve): the figure a run is judged by, on the split that is watched."""
    found = run.journal.evaluations
    split = next((name for name in found if name != "test"), next(iter(found), None))
    if split is None:
        return None
    recipe = flat_recipe(run.recipe)
    name = telling(metrics_of(found[split]), recipe.get("best.metric") or recipe.get("best"))
    return None if name is None else (split, name, found[split][name])


def metrics_of(curves: Iterable[str]) -> list[str]:
    """Figures of quality, of all that an evaluation has."""
    return [name for name in curves if name not in ("seconds", "samples_per_second")]


def large(runs: Sequence[Seen]) -> list[tuple[str, str, Markup]]:
    """(heading, caption, chart) of what is drawn across the page."""
    charts, alone = [], len(runs) == 1
    series = [one for seen in runs for one in _loss_series(seen, alone=alone)]
    marks = _marks(runs[0].run) if alone else []
    if series:
        caption = "Over samples." + (
            " Marks are events." if marks else "" if alone else " Dashed: validation."
        )
        chart = replace(_chart("Loss", series), y_label="nats", marks=marks)
        charts.append(("Loss", caption, responsive(chart)))
    noise = [one for seen in runs for one in _noise_series(seen, alone=alone)]
    if noise:
        caption = "A batch far below the curve is worth making larger; far above it, little is gained."
        chart = replace(_chart("Noise scale", noise, zero=False), y_label="samples", log=True)
        charts.append(("Noise scale", caption, responsive(chart, height=240)))
    return charts


_CARDS = (
    ("lr", "Learning rate", "As used, at the middle of each update."),
    ("grad_norm", "Gradient norm", "Of the whole gradient, before clipping."),
    ("batch_samples", "Batch", "Samples an update."),
    ("tokens_per_second", "Speed", "Real tokens a second, padding not counted."),
    ("wait_share", "Waiting for data", "Share of each update."),
)
_EXACT = ("lr", "batch_samples")
"""A schedule is exact: a moving average would round its corners off."""


def cards(runs: Sequence[Seen]) -> list[tuple[str, str, Markup]]:
    """(heading, caption, chart) of the small charts: leading metrics, then what each update recorded."""
    found = []
    for name in _leading(runs):
        series = [one for seen in runs for one in _metric_series(seen, runs, name)]
        if series:
            heading = title_of(name)
            found.append((heading, "After each evaluation.", small(_chart(heading, series, zero=False))))
    for name, heading, caption in _CARDS:
        curves = [(seen, seen.run.journal.updates[name]) for seen in runs if name in seen.run.journal.updates]
        if not curves or (name == "batch_samples" and _constant(curve for _, curve in curves)):
            continue
        series = [
            svg.Series(
                name=_label(seen, runs, heading.lower()),
                points=curve.means() if name in _EXACT else _smooth(curve),
                tone=seen.tone,
            )
            for seen, curve in curves
        ]
        found.append((heading, caption, small(_chart(heading, series))))
    return found


def _metric_series(seen: Seen, runs: Sequence[Seen], name: str) -> list[svg.Series]:
    """Alone a curve for each split; beside others that of the split which is watched."""
    alone, series = len(runs) == 1, []
    for place, (split, curves) in enumerate(seen.run.journal.evaluations.items()):
        if name in curves and (alone or split == _watched(seen.run)):
            points, tone = thinned(curves[name].means(), 200), 2 + place % 7 if alone else seen.tone
            series.append(
                svg.Series(name=_label(seen, runs, split), points=points, tone=tone, style="linked")
            )
    return series


def _constant(curves: Iterable[Curve]) -> bool:
    return len({y for curve in curves for _, y in curve.means()}) == 1


def _label(seen: Seen, runs: Sequence[Seen], alone: str) -> str:
    return shorten(clean(seen.name if len(runs) > 1 else alone), 40)


def _loss_series(seen: Seen, *, alone: bool) -> list[svg.Series]:
    journal, series = seen.run.journal, []
    name = "training" if alone else shorten(clean(seen.name), 40)
    curve = journal.updates.get("loss")
    if curve is not None:
        if alone and curve.count > 60:
            raw = thinned(curve.extremes())
            series.append(svg.Series(name="every update", points=raw, tone=seen.tone, style="faint"))
        series.append(svg.Series(name=name, points=_smooth(curve), tone=seen.tone))
    for place, (split, curves) in enumerate(journal.evaluations.items()):
        if "loss" not in curves or (not alone and split != _watched(seen.run)):
            continue
        points, words = thinned(curves["loss"].means(), 200), clean(split)
        if alone:
            style: svg.Style = "dots" if len(points) == 1 else "linked"
            series.append(svg.Series(name=words, points=points, tone=2 + place % 7, style=style))
        else:
            series.append(svg.Series(name=f"{name}, {words}", points=points, tone=seen.tone, style="dashed"))
    return series


def _noise_series(seen: Seen, *, alone: bool) -> list[svg.Series]:
    curves = seen.run.journal.updates
    if "noise_scale" not in curves:
        return []
    if not alone:
        points = _positive(curves["noise_scale"].means())
        return [svg.Series(name=shorten(clean(seen.name), 40), points=points, tone=seen.tone, style="linked")]
    wanted: tuple[tuple[str, str, int, svg.Style], ...] = (
        ("noise scale", "noise_scale", 1, "linked"),
        ("95 %, lower end", "noise_scale_low", 1, "dashed"),
        ("95 %, upper end", "noise_scale_high", 1, "dashed"),
        ("batch in use", "batch_samples", 2, "line"),
    )
    return [
        svg.Series(name=name, points=points, tone=tone, style=style)
        for name, key, tone, style in wanted
        if key in curves and (points := thinned(_positive(curves[key].means()), 200))
    ]


def _positive(points: Points) -> Points:
    return [(x, y) for x, y in points if y > 0]


def _smooth(curve: Curve) -> Points:
    points = curve.means()
    return thinned(smoothed(points, max(1, min(25, len(points) // 20))))


def _chart(title: str, series: Sequence[svg.Series], *, zero: bool = True) -> svg.Chart:
    ends = ", ".join(f"{one.name} {show_number(one.points[-1][1])}" for one in series if one.points)
    return svg.Chart(
        title=title,
        description=shorten(f"Now: {ends}.", 400),
        x_label="samples",
        y_label="",
        series=series,
        zero=zero,
    )


def _marks(run: Observed) -> list[svg.Mark]:
    return [
        svg.Mark(x=x, text=shorten(f"{event.get('event')}: {event.get('why', '')}", 200))
        for x, event in run.journal.events
        if x > 0 and not is_routine(event)
    ][-60:]


def is_routine(event: Mapping[str, object]) -> bool:
    """Whether it happens to every run, time and again."""
    return event.get("event") in _QUIET_EVENTS


def _watched(run: Observed) -> str | None:
    splits = list(run.journal.evaluations)
    return next((split for split in splits if split != "test"), splits[0] if splits else None)


def _leading(runs: Sequence[Seen], limit: int = 3) -> list[str]:
    """Figures that are drawn: what chooses the weights, then the usual ones."""
    names = {
        name
        for seen in runs
        for curves in seen.run.journal.evaluations.values()
        for name in metrics_of(curves)
    }
    judged = chosen(runs[0].run) if runs else None
    return in_order(sorted(names), judged[1] if judged else None, usual_only=True)[:limit]
