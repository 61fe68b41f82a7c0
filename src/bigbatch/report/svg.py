"""Hand-written SVG charts. Every text and attribute goes through `tag`, which escapes it.

Colours come from classes (`tone-1` … `tone-8`), so that the page's light and dark styles apply.
Lengths are in pixels of the chart's own view box.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup, escape

from bigbatch.report.scales import Points, Scale, padded_range
from bigbatch.report.text import clean, shorten, show_number

LETTER_PX = 6.1
"""Width of an average letter at the charts' 11 px text, on the generous side."""
_ROW_PX = 18


Style = Literal["line", "faint", "dashed", "dots", "linked"]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve."""

    name: str
    points: Points
    tone: int = 1
    style: Style = "line"
    """`faint` is background and not in the legend; `linked` is dots joined by a line."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical line at one place of the horizontal axis, with a text shown on hovering."""

    x: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What a line chart shows; `line_chart` draws it at any size."""

    title: str
    description: str
    """One sentence for people who cannot see the chart."""
    x_label: str
    y_label: str
    series: Sequence[Series]
    marks: Sequence[Mark] = field(default=())
    zero: bool = False
    """Whether the vertical axis starts at 0."""
    log: bool = False
    x_log: bool = False
    """Whether the horizontal axis is logarithmic; all x are positive then."""
    x_names: Sequence[str] = ()
    """Names of the places 0, 1, 2, … on an axis that is none of numbers."""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """`<name key="value">children</name>`, everything escaped that is not markup already."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), clean(value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(
        child if isinstance(child, Markup) else escape(clean(child))
        for child in children
        if child is not None
    )
    return Markup("<{}{}>{}</{}>").format(Markup(name), written, inside, Markup(name))


def picture(width: float, height: float, title: str, description: str, *children: object) -> Markup:
    """An `<svg>` that scales with the page and has a title and a description for screen readers.

    Args:
        width: of the view box, in pixels.
        height: the same.
        title: shown where the pointer rests, and read aloud.
        description: read aloud.
        *children: what is drawn.
    """
    key = hashlib.sha256(f"{title}|{description}|{width}x{height}".encode()).hexdigest()[:10]
    return tag(
        "svg",
        tag("title", title, id=f"t{key}"),
        tag("desc", description, id=f"d{key}"),
        *children,
        class_="chart",
        viewBox=f"0 0 {px(width)} {px(height)}",
        role="img",
        aria_labelledby=f"t{key} d{key}",
    )


def line_chart(chart: Chart, *, width: float, height: float) -> Markup:
    """Curves with axes, round ticks and a legend.

    Args:
        chart: what is drawn; a chart without any point says so instead.
        width: of the view box; draw a phone and a desktop version instead of shrinking the letters.
        height: of the plot and its axes; legend rows come on top.
    """
    values = [y for one in chart.series for _, y in one.points if not chart.log or y > 0]
    if not values:
        return _nothing(chart, width)
    low, high = (min(values), max(values)) if chart.log else padded_range(values, zero=chart.zero)
    steps = 5 if height > 180 else 4
    vertical = Scale(low, high * (1.05 if chart.log else 1), 0, 1, "log" if chart.log else "linear")
    labels = vertical.labelled_ticks(steps)
    left = max(26.0, LETTER_PX * max((len(label) for _, label in labels), default=1) + 10)
    legend, top = _legend(chart, left, width)
    bottom = top + height - _ROW_PX - 26
    right = width - 12
    vertical = Scale(vertical.low, vertical.high, bottom, top, vertical.kind)
    xs = [x for one in chart.series for x, _ in one.points] + [mark.x for mark in chart.marks]
    # Charts over samples begin at the first sample of the run, whatever was recorded first.
    horizontal = _across(chart, xs, left + 4, right - 4)
    y_label = _labelled(chart.y_label, chart.log)
    x_label = _labelled(chart.x_label, chart.x_log)
    return picture(
        width,
        bottom + 38,
        chart.title,
        chart.description,
        *_grid(labels, vertical, left, right),
        *_horizontal_axis(horizontal, bottom, x_label, chart.x_names),
        tag("text", y_label, x=px(left), y=13, class_="label") if y_label else None,
        *legend,
        *(_mark(mark, horizontal, top, bottom) for mark in chart.marks),
        *(_curve(one, horizontal, vertical) for one in chart.series),
    )


def _labelled(label: str, log: bool) -> str:
    """An axis by its name; a logarithmic one says so."""
    return f"{label} (log scale)".strip() if log else label


def _nothing(chart: Chart, width: float) -> Markup:
    words = tag("text", "nothing recorded yet", x=px(width / 2), y=44, text_anchor="middle", class_="label")
    return picture(width, 80, chart.title, "Nothing was recorded yet.", words)


def _grid(labels: list[tuple[float, str]], vertical: Scale, left: float, right: float) -> list[Markup]:
    drawn = []
    for value, label in labels:
        y = vertical(value)
        drawn.append(tag("line", x1=px(left), x2=px(right), y1=px(y), y2=px(y), class_="rule"))
        drawn.append(tag("text", label, x=px(left - 8), y=px(y + 4), text_anchor="end", class_="tick"))
    return drawn


def _across(chart: Chart, xs: Sequence[float], start: float, end: float) -> Scale:
    if chart.x_names:
        return Scale(-0.5, len(chart.x_names) - 0.5, start, end)
    if chart.x_log:
        return Scale(min(xs) / 1.15, max(xs) * 1.15, start, end, "log")
    return Scale(min(0.0, *xs), max(xs), start, end)


def _horizontal_axis(scale: Scale, bottom: float, label: str, names: Sequence[str] = ()) -> list[Markup]:
    width = scale.end_px - scale.start_px
    drawn = [
        tag(
            "line",
            x1=px(scale.start_px - 4),
            x2=px(scale.end_px + 4),
            y1=px(bottom),
            y2=px(bottom),
            class_="axis",
        )
    ]
    room = int(width / max(1, len(names)) / LETTER_PX)
    named = [(float(place), shorten(clean(name), room)) for place, name in enumerate(names)]
    for value, text in named or scale.labelled_ticks(max(3, int(width / 100))):
        x = scale(value)
        # The outermost labels move inwards, so that none of them leaves the picture.
        half = LETTER_PX * len(text) / 2
        seat = min(max(x, scale.start_px - 4 + half), scale.end_px + 10 - half)
        drawn.append(tag("line", x1=px(x), x2=px(x), y1=px(bottom), y2=px(bottom + 4), class_="axis"))
        drawn.append(tag("text", text, x=px(seat), y=px(bottom + 17), text_anchor="middle", class_="tick"))
    drawn.append(
        tag("text", label, x=px(scale.end_px + 4), y=px(bottom + 33), text_anchor="end", class_="label")
    )
    return drawn


def _legend(chart: Chart, left: float, width: float) -> tuple[list[Markup], float]:
    """Legend rows, and where the plot begins below them."""
    named = [one for one in chart.series if one.style != "faint"]
    label = _labelled(chart.y_label, chart.log)
    if len(named) < 2 and not label:
        return [], 8.0
    x, y = left + (LETTER_PX * len(label) + 16 if label else 0), 13.0
    drawn: list[Markup] = []
    for one in named:
        name = shorten(clean(one.name), int((width - left - 34) / LETTER_PX))
        needed = 22 + LETTER_PX * len(name) + 10
        if x + needed > width and x > left:
            x, y = left, y + _ROW_PX
        if one.style == "dots":
            drawn.append(tag("circle", cx=px(x + 8), cy=px(y - 4), r=3.5, class_=f"dot tone-{one.tone}"))
        else:
            line = f"line tone-{one.tone}" + (" dashed" if one.style == "dashed" else "")
            drawn.append(tag("line", x1=px(x), x2=px(x + 16), y1=px(y - 4), y2=px(y - 4), class_=line))
        drawn.append(tag("text", name, x=px(x + 22), y=px(y), class_="legend"))
        x += needed
    return drawn, y + 12


def _mark(mark: Mark, horizontal: Scale, top: float, bottom: float) -> Markup:
    x = px(horizontal(mark.x))
    flag = f"{x},{px(bottom)} {px(float(x) - 4)},{px(bottom + 7)} {px(float(x) + 4)},{px(bottom + 7)}"
    return tag(
        "g",
        tag("title", mark.text),
        tag("line", x1=x, x2=x, y1=px(top), y2=px(bottom), class_="mark"),
        tag("polygon", points=flag, class_="flag"),
    )


def _curve(one: Series, horizontal: Scale, vertical: Scale) -> Markup:
    """The series as a path, as dots, or both; a logarithmic axis leaves out what is not positive."""
    seen = [(x, y) for x, y in one.points if vertical.kind == "linear" or y > 0]
    places = [(px(horizontal(x)), px(vertical(y))) for x, y in seen]
    drawn = []
    if one.style != "dots" and len(places) > 1:
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
        kind = {"faint": " faint", "dashed": " dashed"}.get(one.style, "")
        drawn.append(tag("path", d=path, class_=f"line tone-{one.tone}{kind}"))
    if one.style in ("dots", "linked") or len(places) == 1:
        for (x, y), (_, value) in zip(places, seen, strict=True):
            words = tag("title", f"{one.name}: {show_number(value)}")
            drawn.append(tag("circle", words, cx=x, cy=y, r=3.5, class_=f"dot tone-{one.tone}"))
    return tag("g", *drawn)


def px(length: float) -> str:
    """A length with one decimal, without a trailing zero."""
    return f"{length:.1f}".removesuffix(".0")
