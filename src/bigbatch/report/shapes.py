"""Bars, heat-map and reliability diagram: the charts that are no curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bigbatch.report.scales import Scale
from bigbatch.report.svg import LETTER_PX, picture, px, tag
from bigbatch.report.text import clean, shorten, show_number, show_share


def meter(fraction: float, *, tone: int = 1) -> Markup:
    """A thin horizontal bar, filled to `fraction` (0 … 1), next to the number that it shows."""
    part = min(1.0, max(0.0, fraction))
    return tag(
        "svg",
        tag("rect", width="100%", height=8, rx=4, class_="track"),
        tag("rect", width=f"{100 * part:.1f}%", height=8, rx=4, class_=f"fill tone-{tone}"),
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
    """Stacked horizontal bars on one scale, name above each; its figure at the right, or below.

    Args:
        rows: from top to bottom.
        title: of the picture.
        description: for those who cannot see it.
        width: of the view box, in pixels of a desktop or a phone.
    """
    narrow = any(LETTER_PX * (len(row.name) + len(row.note) + 3) > width for row in rows)
    step = 66 if narrow else 50
    longest = max((sum(amount for _, amount, _ in row.parts) for row in rows), default=0) or 1
    drawn: list[Markup] = []
    for number, row in enumerate(rows):
        y = number * step
        drawn.append(tag("text", row.name, x=0, y=y + 13, class_="legend"))
        seat = {"x": 0, "y": y + 48} if narrow else {"x": px(width), "y": y + 13, "text_anchor": "end"}
        drawn.append(tag("text", row.note, class_="label", **seat))
        x = 0.0
        for what, amount, tone in row.parts:
            size = width * amount / longest
            words = tag("title", f"{row.name}, {what}: {show_number(amount)}")
            drawn.append(
                tag("rect", words, x=px(x), y=y + 20, width=px(size), height=14, class_=f"fill tone-{tone}")
            )
            x += size
    return picture(width, len(rows) * step - 10, title, description, *drawn)


def heat_map(
    counts: Sequence[Sequence[float]], labels: Sequence[str], *, title: str, description: str, width: float
) -> Markup:
    """A confusion matrix: rows are true classes, columns predictions; shade is the share of the row.

    Args:
        counts: (C, C) samples; row: true class, column: predicted one.
        labels: (C,) names of the classes; with more than 10 of them cells show no numbers.
        title: of the picture.
        description: for those who cannot see it.
        width: of the view box, in pixels.
    """
    numbers = len(labels) <= 10
    names = [clean(label) for label in labels]
    letters = 14 if width > 400 else 9
    left = LETTER_PX * min(letters, max(len(name) for name in names)) + 26
    cell = min(150.0, (width - left - 4) / len(names))
    height = cell if not numbers else min(cell, 62.0)
    top = 24 + (LETTER_PX * min(letters, max(len(name) for name in names)) * 0.75 + 12)
    drawn = [
        tag("text", "predicted →", x=px(left), y=13, class_="label"),
        tag("text", "true ↓", x=0, y=px(top - 6), class_="label"),
    ]
    for number, name in enumerate(names):
        drawn.append(_column_name(name, left + (number + 0.5) * cell, top - 8, letters))
        y = top + (number + 0.5) * height + 4
        words = shorten(name, letters)
        drawn.append(
            tag("text", words, tag("title", name), x=px(left - 8), y=px(y), text_anchor="end", class_="tick")
        )
    for row, line in enumerate(counts):
        total = sum(line) or 1.0
        for column, count in enumerate(line):
            box = _Box(x=left + column * cell, y=top + row * height, width=cell, height=height)
            share = show_share(count / total)
            words = f"{names[row]} predicted as {names[column]}: {show_number(count)} ({share})"
            tone = "tone-1" if row == column else "tone-2"
            shade, letters_on_it = _shade(box, count / total, tone)
            written = _count(box, count, share, letters_on_it) if numbers else []
            drawn.append(tag("g", tag("title", words), shade, *written))
    return picture(width, top + len(names) * height + 4, title, description, *drawn)


def _column_name(name: str, x: float, y: float, letters: int) -> Markup:
    turned = f"rotate(-45 {px(x)} {px(y)})"
    return tag(
        "text", shorten(name, letters), tag("title", name), x=px(x), y=px(y), transform=turned, class_="tick"
    )


@dataclass(frozen=True, kw_only=True)
class _Box:
    x: float
    y: float
    width: float
    height: float


def _shade(box: _Box, share: float, tone: str) -> tuple[Markup, str]:
    """A cell's coloured square, and the class of the letters that can be read on it."""
    depth = 0.07 + 0.88 * share
    square = tag(
        "rect",
        x=px(box.x + 1),
        y=px(box.y + 1),
        width=px(box.width - 2),
        height=px(box.height - 2),
        rx=px(min(5.0, box.width / 6)),
        class_=f"fill {tone}",
        fill_opacity=f"{depth:.3f}",
    )
    # Light and dark pages need the other letter colour from different depths on.
    return square, "count" + (" mid" if depth > 0.62 else "") + (" deep" if depth > 0.76 else "")


def _count(box: _Box, count: float, share: str, letters: str) -> list[Markup]:
    """The number in a cell, and its share of the row where there is room."""
    x, y = box.x + box.width / 2, box.y + box.height / 2
    if box.height <= 40 or box.width <= 44:
        return [tag("text", show_number(count), x=px(x), y=px(y + 4), class_=letters)]
    return [
        tag("text", show_number(count), x=px(x), y=px(y - 2), class_=letters),
        tag("text", share, x=px(x), y=px(y + 14), class_=letters + " small"),
    ]


def reliability(
    bins: Sequence[tuple[float, float, float]], *, title: str, description: str, width: float
) -> Markup:
    """Stated probability against the share that was right: on the diagonal when a model knows what it knows.

    Args:
        bins: (mean stated probability, share that was right, samples) of each bin.
        title: accessible title.
        description: accessible description.
        width: of the view box; the plot is square.
    """
    left, top, size = 40.0, 24.0, width - 56
    across, up = Scale(0, 1, left, left + size), Scale(0, 1, top + size * 0.78, top)
    bottom = up(0)
    most = max((samples for _, _, samples in bins), default=0) or 1
    drawn: list[Markup] = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        y, x = px(up(value)), px(across(value))
        drawn.append(tag("line", x1=px(left), x2=px(left + size), y1=y, y2=y, class_="rule"))
        drawn.append(
            tag("text", f"{value:g}", x=px(left - 8), y=px(float(y) + 4), text_anchor="end", class_="tick")
        )
        drawn.append(tag("text", f"{value:g}", x=x, y=px(bottom + 17), text_anchor="middle", class_="tick"))
    drawn.append(tag("line", x1=px(left), y1=px(bottom), x2=px(left + size), y2=px(top), class_="mark"))
    for stated, right, samples in bins:
        words = f"stated {show_number(stated)}, right {show_number(right)}, {show_number(samples)} samples"
        x, y, high = across(stated), up(right), 0.28 * (bottom - top) * samples / most
        drawn.append(
            tag(
                "rect", x=px(x - 7), y=px(bottom - high), width=14, height=px(high), class_="fill tone-1 pale"
            )
        )
        radius = 3 + 4 * (samples / most) ** 0.5
        drawn.append(
            tag("circle", tag("title", words), cx=px(x), cy=px(y), r=px(radius), class_="dot tone-1")
        )
    drawn.append(tag("text", "share that was right", x=px(left), y=13, class_="label"))
    drawn.append(
        tag(
            "text",
            "stated probability",
            x=px(left + size),
            y=px(bottom + 33),
            text_anchor="end",
            class_="label",
        )
    )
    return picture(width, bottom + 38, title, description, *drawn)
