"""The report's charts, drawn from RunData."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from bigbatch.report import facts, shapes, svg
from bigbatch.report.quality import SplitQuality, calibration_error
from bigbatch.report.read import RunData
from bigbatch.report.scales import Points, smoothed, thinned
from bigbatch.report.text import clean, shorten, show_number, show_share, title_of
from bigbatch.rules.headline import in_order

WIDE_PX = 1040
CARD_PX = 310
SOURCE_LOSS = "loss.source."
"""In front of a source's name, in the records of a mixture."""
_SMOOTH_FROM = 120
"""Curves with more updates than this are drawn as a moving average over the faint raw values."""


def samples_at(run: RunData) -> dict[int, float]:
    """Update number -> samples consumed after it; update 0 is at 0."""
    steps, samples = facts.column(run, "step"), facts.column(run, "samples")
    pairs = [pair for pair in zip(steps, samples, strict=True) if None not in pair]
    return {0: 0.0} | {step: float(seen) for step, seen in pairs}


def update_points(run: RunData, name: str) -> Points:
    """(samples, value) of every update that recorded a finite number; none when no update did."""
    if name not in run.updates.column_names:
        return []
    pairs = zip(facts.column(run, "samples"), facts.column(run, name), strict=True)
    return [(float(x), value) for x, y in pairs if x is not None and (value := facts.number(y)) is not None]


def eval_points(run: RunData, split: str, name: str) -> Points:
    """(samples, value) of every evaluation of a split.

    Args:
        run: what its directory holds.
        split: as in the records: `validation.hard`.
        name: of the figure.
    """
    at = samples_at(run)
    found = [(at.get(facts.step_of(record)), facts.number(record.get(name))) for record in run.evals
             if record.get("split") == split]  # fmt: skip
    return [(x, y) for x, y in found if x is not None and y is not None]


def curve(name: str, points: Points, tone: int) -> list[svg.Series]:
    """A training curve: as it is when short, else its moving average with the raw values faint behind it.

    Args:
        name: of the figure, for the legend.
        points: (samples, value), one an update.
        tone: number of its colour in the style sheet, from 1.
    """
    if len(points) <= _SMOOTH_FROM:
        return [svg.Series(name=name, points=points, tone=tone)]
    window = max(5, len(points) // 40)
    return [
        svg.Series(name=f"{name}, every update", points=thinned(points), tone=tone, style="faint"),
        svg.Series(name=f"{name}, mean of {window}", points=thinned(smoothed(points, window)), tone=tone),
    ]


def responsive(chart: svg.Chart, *, height: int = 300) -> Markup:
    """A desktop and a phone drawing of one chart; the style sheet shows one, so letters keep their size."""
    wide = svg.line_chart(chart, width=WIDE_PX, height=height)
    narrow = svg.line_chart(chart, width=CARD_PX, height=min(height, 220))
    return svg.tag("div", wide, class_="wide") + svg.tag("div", narrow, class_="narrow")


def small(chart: svg.Chart) -> Markup:
    """A chart for a card: one drawing fits phone and desktop."""
    return svg.line_chart(chart, width=CARD_PX, height=190)


def splits_of(run: RunData) -> list[str]:
    """Splits in the order in which they were first evaluated."""
    return list(dict.fromkeys(str(record.get("split")) for record in run.evals))


def loss_chart(run: RunData) -> svg.Chart:
    """Training loss with every split's evaluation loss, and the events as marks."""
    training = update_points(run, "loss")
    series = curve("training", training, 1)
    for number, split in enumerate(splits_of(run)):
        points = eval_points(run, split, "loss")
        style = "dots" if len(points) == 1 else "linked"
        series.append(svg.Series(name=clean(split), points=points, tone=2 + number % 7, style=style))
    return svg.Chart(
        title="Loss",
        description=_travel("Training loss", training),
        x_label="samples",
        y_label="nats",
        series=[one for one in series if one.points],
        marks=event_marks(run),
        zero=True,
    )


def event_marks(run: RunData) -> list[svg.Mark]:
    """A mark for every event that changed the run; routine checkpoints would only be noise."""
    at = samples_at(run)
    marks = []
    for event in run.events:
        where = at.get(facts.step_of(event))
        if where is not None and event.get("event") not in ("checkpoint", "saved", "started", "finished"):
            marks.append(svg.Mark(x=where, text=f"{event.get('event')}: {event.get('why', '')}"))
    return marks[:60]


def training_cards(run: RunData) -> list[tuple[str, str, Markup]]:
    """(heading, caption, chart) of the small training charts."""
    cards = []
    wanted = (
        ("lr", "Learning rate", "As used, at the middle of each update.", 1),
        ("grad_norm", "Gradient norm", "Of the whole gradient, before clipping.", 3),
    )
    for name, heading, caption, tone in wanted:
        points = update_points(run, name)
        if points:
            chart = svg.Chart(
                title=heading,
                description=_travel(heading, points),
                x_label="samples",
                y_label="",
                # A schedule is exact: a moving average would round its corners off.
                series=[svg.Series(name=heading, points=thinned(points), tone=tone)]
                if name == "lr"
                else curve(heading.lower(), points, tone),
                zero=True,
            )
            cards.append((heading, caption, small(chart)))
    by_source = _source_losses(run)
    if by_source:
        cards.append(("Loss by source", "Of the samples that each source gave an update.", small(by_source)))
    speed = _speed(run)
    if speed:
        chart = svg.Chart(
            title="Speed",
            description=_travel("Real tokens a second", speed),
            x_label="samples",
            y_label="",
            series=curve("tokens/s", speed, 4),
            zero=True,
        )
        cards.append(("Speed", "Real tokens a second, padding not counted.", small(chart)))
    return cards


def _source_losses(run: RunData) -> svg.Chart | None:
    """Training loss of each source of a mixture; None where there is none."""
    names = [name for name in run.updates.column_names if name.startswith(SOURCE_LOSS)]
    curves = [(clean(name.removeprefix(SOURCE_LOSS)), update_points(run, name)) for name in names]
    return (
        overlay("Loss by source", "nats", curves, zero=True) if any(points for _, points in curves) else None
    )


def _speed(run: RunData) -> Points:
    rows = zip(*(facts.column(run, name) for name in ("samples", "batch_tokens", "seconds")), strict=True)
    return [
        (float(x), tokens / seconds) for x, tokens, seconds in rows if None not in (x, tokens) and seconds
    ]


def evaluation_cards(run: RunData) -> list[tuple[str, str, Markup]]:
    """One chart for each leading metric, a curve for each split with at least two evaluations."""
    cards = []
    for name in leading_metrics(run):
        series = [
            svg.Series(name=clean(split), points=points, tone=2 + number % 7, style="linked")
            for number, split in enumerate(splits_of(run))
            if len(points := eval_points(run, split, name)) > 1
        ]
        if series:
            chart = svg.Chart(
                title=title_of(name),
                description=_travel(title_of(name), series[0].points),
                x_label="samples",
                y_label="",
                series=series,
            )
            cards.append((title_of(name), "After each evaluation.", small(chart)))
    return cards


def leading_metrics(run: RunData, limit: int = 3) -> list[str]:
    """The metric the run is judged by, then the usual ones, of those that were evaluated."""
    names = {key for record in run.evals for key, value in record.items() if facts.number(value) is not None}
    best = facts.best(run)
    return in_order(sorted(names), best.metric if best else None, usual_only=True)[:limit]


def confusion_figure(quality: SplitQuality) -> Markup | None:
    """The confusion matrix as a heat-map; None for more classes than anyone can read."""
    if not quality.confusion or len(quality.labels) > 40:
        return None
    right = sum(line[number] for number, line in enumerate(quality.confusion))
    total = sum(map(sum, quality.confusion))
    words = f"{show_number(right)} of {show_number(total)} samples are on the diagonal, which is right."
    title = f"Confusion matrix, {quality.split}"
    drawn = [
        shapes.heat_map(quality.confusion, quality.labels, title=title, description=words, width=width)
        for width in (520, CARD_PX)
    ]
    return svg.tag("div", drawn[0], class_="wide") + svg.tag("div", drawn[1], class_="narrow")


def reliability_figure(quality: SplitQuality) -> Markup | None:
    """The reliability diagram; None when calibration was not recorded."""
    error = calibration_error(quality.calibration)
    if error is None:
        return None
    wide, narrow = (
        shapes.reliability(
            quality.calibration,
            title=f"Calibration, {quality.split}",
            description=f"Expected calibration error {show_number(error)}.",
            width=width,
        )
        for width in (390, CARD_PX)
    )
    return svg.tag("div", wide, class_="wide") + svg.tag("div", narrow, class_="narrow")


def padding_figure(padding: facts.Padding) -> Markup | None:
    """Computed tokens of this run against random padded batches of 32."""
    if padding.random_tokens is None:
        return None
    rows = [
        shapes.Bar(
            name=name,
            parts=[("real tokens", padding.real_tokens, 1), ("padding", computed - padding.real_tokens, 2)],
            note=f"{show_number(round(computed))} tokens, "
            f"{show_share(1 - padding.real_tokens / computed)} padding",
        )
        for name, computed in (
            ("Random padded batches of 32", padding.random_tokens),
            ("This run", padding.computed_tokens),
        )
    ]
    words = facts.padding_sentence(padding)
    wide, narrow = (
        shapes.bars(rows, title="Padding avoided", description=words, width=width)
        for width in (WIDE_PX, CARD_PX)
    )
    return svg.tag("div", wide, class_="wide") + svg.tag("div", narrow, class_="narrow")


def overlay(
    title: str, y_label: str, curves: Sequence[tuple[str, Points]], *, zero: bool, linked: bool = False
) -> svg.Chart:
    """Several runs in one chart, one tone each.

    Args:
        title: of the chart.
        y_label: unit of the figure; empty: none.
        curves: (name of the run, its points).
        zero: whether the vertical axis begins at 0.
        linked: whether points are few and measured one by one: drawn as they are, with lines between them. Else curves
            are smoothed.
    """
    series = []
    for number, (name, points) in enumerate(curves):
        tone = 1 + number % 8
        if not points:
            continue
        if linked:
            series.append(svg.Series(name=name, points=points, tone=tone, style="linked"))
        else:
            window = max(1, len(points) // 40)
            series.append(svg.Series(name=name, points=thinned(smoothed(points, window)), tone=tone))
    ends = ", ".join(f"{one.name} ends at {show_number(one.points[-1][1])}" for one in series)
    words = shorten(ends, 400) + "."
    return svg.Chart(
        title=title, description=words, x_label="samples", y_label=y_label, series=series, zero=zero
    )


def _travel(name: str, points: Points) -> str:
    """Say how a curve runs: `Loss goes from 1.098 to 0.381; its least is 0.362, its greatest 1.12`."""
    if not points:
        return "Nothing was recorded yet."
    values = [value for _, value in points]
    ends = f"{name} goes from {show_number(values[0])} to {show_number(values[-1])}"
    return f"{ends}; its least is {show_number(min(values))}, its greatest {show_number(max(values))}."
