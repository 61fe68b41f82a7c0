"""Hand-written SVG charts. Every text and attribute goes through `tag`, which escapes it.

Colours come from classes (`tone-1` … `tone-8`, `ink`, `muted`), so that the page's light and dark styles apply.
Lengths are in pixels of the chart's own view box.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup, escape

from bigbatch.report.scales import Points, Scale, padded_range
from bigbatch.report.text import clean, shorten, show_number

_LETTER_PX = 6.1
"""Width of an average letter at the charts' 11 px text, on the generous side."""
_ROW_PX = 18


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve."""

    name: str
    points: Points
    tone: int = 1
    style: Literal["line", "faint", "dashed", "dots", "linked"] = "line"
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


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """`<name key="value">children</name>`, everything escaped that is not markup already."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), clean(value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(
        child if isinstance(child, Markup) else escape(clean(child)) for child in children if child is not None
    )
    return Markup("<{}{}>{}</{}>").format(Markup(name), written, inside, Markup(name))


def picture(width: float, height: float, title: str, description: str, *children: Any) -> Markup:
    """An `<svg>` that scales with the page and has a title and a description for screen readers."""
    key = hashlib.sha256(f"{title}|{description}|{width}x{height}".encode()).hexdigest()[:10]
    return tag(
        "svg",
        tag("title", title, id=f"t{key}"),
        tag("desc", description, id=f"d{key}"),
        *children,
        class_="chart",
        viewBox=f"0 0 {_px(width)} {_px(height)}",
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
    left = max(26.0, _LETTER_PX * max((len(label) for _, label in labels), default=1) + 10)
    legend, top = _legend(chart, left, width)
    bottom = top + height - _ROW_PX - 26
    right = width - 12
    vertical = Scale(vertical.low, vertical.high, bottom, top, vertical.kind)
    xs = [x for one in chart.series for x, _ in one.points] + [mark.x for mark in chart.marks]
    # Charts over samples begin at the first sample of the run, whatever was recorded first.
    horizontal = Scale(min(0.0, *xs), max(xs), left + 4, right - 4)
    return picture(
        width,
        bottom + 38,
        chart.title,
        chart.description,
        *_grid(labels, vertical, left, right),
        *_horizontal_axis(horizontal, bottom, chart.x_label),
        tag("text", chart.y_label, x=_px(left), y=13, class_="label") if chart.y_label else None,
        *legend,
        *(_mark(mark, horizontal, top, bottom) for mark in chart.marks),
        *(_curve(one, horizontal, vertical) for one in chart.series),
    )


def _nothing(chart: Chart, width: float) -> Markup:
    words = tag("text", "nothing recorded yet", x=_px(width / 2), y=44, text_anchor="middle", class_="label")
    return picture(width, 80, chart.title, "Nothing was recorded yet.", words)


def _grid(labels: list[tuple[float, str]], vertical: Scale, left: float, right: float) -> list[Markup]:
    drawn = []
    for value, label in labels:
        y = vertical(value)
        drawn.append(tag("line", x1=_px(left), x2=_px(right), y1=_px(y), y2=_px(y), class_="rule"))
        drawn.append(tag("text", label, x=_px(left - 8), y=_px(y + 4), text_anchor="end", class_="tick"))
    return drawn


def _horizontal_axis(scale: Scale, bottom: float, label: str) -> list[Markup]:
    width = scale.end_px - scale.start_px
    drawn = [
        tag("line", x1=_px(scale.start_px - 4), x2=_px(scale.end_px + 4), y1=_px(bottom), y2=_px(bottom), class_="axis")
    ]
    for value, text in scale.labelled_ticks(max(3, int(width / 100))):
        x = scale(value)
        # The outermost labels move inwards, so that none of them leaves the picture.
        half = _LETTER_PX * len(text) / 2
        seat = min(max(x, scale.start_px - 4 + half), scale.end_px + 10 - half)
        drawn.append(tag("line", x1=_px(x), x2=_px(x), y1=_px(bottom), y2=_px(bottom + 4), class_="axis"))
        drawn.append(tag("text", text, x=_px(seat), y=_px(bottom + 17), text_anchor="middle", class_="tick"))
    drawn.append(tag("text", label, x=_px(scale.end_px + 4), y=_px(bottom + 33), text_anchor="end", class_="label"))
    return drawn


def _legend(chart: Chart, left: float, width: float) -> tuple[list[Markup], float]:
    """Legend rows, and where the plot begins below them."""
    named = [one for one in chart.series if one.style != "faint"]
    if len(named) < 2 and not chart.y_label:
        return [], 8.0
    x, y = left + _LETTER_PX * len(chart.y_label) + 16, 13.0
    drawn: list[Markup] = []
    for one in named:
        name = shorten(clean(one.name), int((width - left - 34) / _LETTER_PX))
        needed = 22 + _LETTER_PX * len(name) + 10
        if x + needed > width and x > left:
            x, y = left, y + _ROW_PX
        if one.style == "dots":
            drawn.append(tag("circle", cx=_px(x + 8), cy=_px(y - 4), r=3.5, class_=f"dot tone-{one.tone}"))
        else:
            line = f"line tone-{one.tone}" + (" dashed" if one.style == "dashed" else "")
            drawn.append(tag("line", x1=_px(x), x2=_px(x + 16), y1=_px(y - 4), y2=_px(y - 4), class_=line))
        drawn.append(tag("text", name, x=_px(x + 22), y=_px(y), class_="legend"))
        x += needed
    return drawn, y + 12


def _mark(mark: Mark, horizontal: Scale, top: float, bottom: float) -> Markup:
    x = _px(horizontal(mark.x))
    flag = f"{x},{_px(bottom)} {_px(float(x) - 4)},{_px(bottom + 7)} {_px(float(x) + 4)},{_px(bottom + 7)}"
    return tag(
        "g",
        tag("title", mark.text),
        tag("line", x1=x, x2=x, y1=_px(top), y2=_px(bottom), class_="mark"),
        tag("polygon", points=flag, class_="flag"),
    )


def _curve(one: Series, horizontal: Scale, vertical: Scale) -> Markup:
    """The series as a path, as dots, or both; a logarithmic axis leaves out what is not positive."""
    seen = [(x, y) for x, y in one.points if vertical.kind == "linear" or y > 0]
    places = [(_px(horizontal(x)), _px(vertical(y))) for x, y in seen]
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


def meter(fraction: float, *, tone: int = 1, mark: float | None = None) -> Markup:
    """A thin horizontal bar, filled to `fraction` (0 … 1), with an optional tick; decoration next to a number."""
    part = min(1.0, max(0.0, fraction))
    tick = None if mark is None else tag("rect", x=f"{100 * min(1.0, mark):.1f}%", width=2, height=8, class_="notch")
    return tag(
        "svg",
        tag("rect", width="100%", height=8, rx=4, class_="track"),
        tag("rect", width=f"{100 * part:.1f}%", height=8, rx=4, class_=f"fill tone-{tone}"),
        tick,
        class_="meter",
        aria_hidden="true",
    )


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A horizontal bar of several parts, one after the other."""

    name: str
    parts: Sequence[tuple[str, float, int]]
    """(what, amount, tone)."""
    note: str


def bars(rows: Sequence[Bar], *, title: str, description: str, width: float) -> Markup:
    """Stacked horizontal bars on one scale, name above each and its figure at the right."""
    longest = max((sum(amount for _, amount, _ in row.parts) for row in rows), default=0) or 1
    drawn: list[Markup] = []
    for number, row in enumerate(rows):
        y = number * 50
        drawn.append(tag("text", row.name, x=0, y=y + 13, class_="legend"))
        drawn.append(tag("text", row.note, x=_px(width), y=y + 13, text_anchor="end", class_="label"))
        x = 0.0
        for what, amount, tone in row.parts:
            size = width * amount / longest
            words = tag("title", f"{row.name}, {what}: {show_number(amount)}")
            drawn.append(
                tag("rect", words, x=_px(x), y=y + 20, width=_px(size), height=14, class_=f"fill tone-{tone}")
            )
            x += size
    return picture(width, len(rows) * 50 - 10, title, description, *drawn)


def heat_map(
    counts: Sequence[Sequence[float]], labels: Sequence[str], *, title: str, description: str, width: float
) -> Markup:
    """A confusion matrix: rows are the true classes, columns what was predicted; shade is the share of the row."""
    numbers = len(labels) <= 10
    names = [clean(label) for label in labels]
    letters = 14 if width > 400 else 9
    left = _LETTER_PX * min(letters, max(len(name) for name in names)) + 26
    cell = min(150.0, (width - left - 4) / len(names))
    height = cell if not numbers else min(cell, 62.0)
    top = 24 + (_LETTER_PX * min(letters, max(len(name) for name in names)) * 0.75 + 12)
    drawn = [
        tag("text", "predicted →", x=_px(left), y=13, class_="label"),
        tag("text", "true ↓", x=0, y=_px(top - 6), class_="label"),
    ]
    for number, name in enumerate(names):
        drawn.append(_column_name(name, left + (number + 0.5) * cell, top - 8, letters))
        y = top + (number + 0.5) * height + 4
        words = shorten(name, letters)
        drawn.append(tag("text", words, tag("title", name), x=_px(left - 8), y=_px(y), text_anchor="end", class_="tick"))
    for row, line in enumerate(counts):
        total = sum(line) or 1.0
        for column, count in enumerate(line):
            x, y = left + column * cell, top + row * height
            words = f"{names[row]} predicted as {names[column]}: {show_number(count)} ({100 * count / total:.0f} %)"
            drawn.append(_cell(x, y, cell, height, count, count / total, words, row == column, numbers))
    return picture(width, top + len(names) * height + 4, title, description, *drawn)


def _column_name(name: str, x: float, y: float, letters: int) -> Markup:
    turned = f"rotate(-45 {_px(x)} {_px(y)})"
    return tag("text", shorten(name, letters), tag("title", name), x=_px(x), y=_px(y), transform=turned, class_="tick")


def _cell(
    x: float, y: float, width: float, height: float, count: float, share: float, words: str, right: bool, numbers: bool
) -> Markup:
    tone = "tone-1" if right else "tone-2"
    shade_fraction = 0.07 + 0.88 * share
    shade = tag(
        "rect",
        x=_px(x + 1),
        y=_px(y + 1),
        width=_px(width - 2),
        height=_px(height - 2),
        rx=_px(min(5.0, width / 6)),
        class_=f"fill {tone}",
        fill_opacity=f"{shade_fraction:.3f}",
    )
    parts: list[Markup] = [tag("title", words), shade]
    if numbers:
        # Light and dark pages need the other letter colour from different depths on.
        ink = "count" + (" mid" if shade_fraction > 0.62 else "") + (" deep" if shade_fraction > 0.76 else "")
        middle = x + width / 2
        roomy = height > 40 and width > 44
        lift = -2 if roomy else 4
        parts.append(tag("text", show_number(count), x=_px(middle), y=_px(y + height / 2 + lift), class_=ink))
        if roomy:
            share_text = f"{100 * share:.0f} %"
            parts.append(tag("text", share_text, x=_px(middle), y=_px(y + height / 2 + 14), class_=ink + " small"))
    return tag("g", *parts)


def reliability(
    bins: Sequence[tuple[float, float, float]], *, title: str, description: str, width: float, show: Callable[..., str]
) -> Markup:
    """Stated probability against the share that was right: on the diagonal when a model knows what it knows.

    Args:
        bins: (mean stated probability, share that was right, samples) of each bin.
        title: accessible title.
        description: accessible description.
        width: of the view box; the plot is square.
        show: number -> text, for the words on hovering.
    """
    left, top, size = 40.0, 24.0, width - 56
    across, up = Scale(0, 1, left, left + size), Scale(0, 1, top + size * 0.78, top)
    bottom = up(0)
    most = max((samples for _, _, samples in bins), default=0) or 1
    drawn: list[Markup] = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        y, x = _px(up(value)), _px(across(value))
        drawn.append(tag("line", x1=_px(left), x2=_px(left + size), y1=y, y2=y, class_="rule"))
        drawn.append(tag("text", f"{value:g}", x=_px(left - 8), y=_px(float(y) + 4), text_anchor="end", class_="tick"))
        drawn.append(tag("text", f"{value:g}", x=x, y=_px(bottom + 17), text_anchor="middle", class_="tick"))
    drawn.append(tag("line", x1=_px(left), y1=_px(bottom), x2=_px(left + size), y2=_px(top), class_="mark"))
    for stated, right, samples in bins:
        words = f"stated {show(stated)}, right {show(right)}, {show(samples)} samples"
        x, y, high = across(stated), up(right), 0.28 * (bottom - top) * samples / most
        drawn.append(
            tag("rect", x=_px(x - 7), y=_px(bottom - high), width=14, height=_px(high), class_="fill tone-1 pale")
        )
        radius = 3 + 4 * (samples / most) ** 0.5
        drawn.append(tag("circle", tag("title", words), cx=_px(x), cy=_px(y), r=_px(radius), class_="dot tone-1"))
    drawn.append(tag("text", "share that was right", x=_px(left), y=13, class_="label"))
    drawn.append(
        tag("text", "stated probability", x=_px(left + size), y=_px(bottom + 33), text_anchor="end", class_="label")
    )
    return picture(width, bottom + 38, title, description, *drawn)


def _px(length: float) -> str:
    """A length with one decimal, without a trailing zero."""
    return f"{length:.1f}".removesuffix(".0")
