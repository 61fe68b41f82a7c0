"""What notebooks show of a run, a plan and a comparison: small tables and a chart, everything escaped, no scripts."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, fields

from markupsafe import Markup

from bigbatch.report import facts, svg
from bigbatch.report.figures import WIDE_PX, loss_chart
from bigbatch.report.page import FIGURE_STYLE
from bigbatch.report.read import RunData
from bigbatch.report.text import clean, show_measured, show_number, title_of

_FRAME_PX = 720


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownRun(RunData):
    """What a run directory holds, as a notebook shows it."""

    def _repr_html_(self) -> str:
        return run_html(self)


def shown(run: RunData) -> ShownRun:
    """The same, which a notebook draws."""
    return ShownRun(**{each.name: getattr(run, each.name) for each in fields(run)})


def run_html(run: RunData) -> str:
    """A run, also while it goes on: state, loss, figures, what was predicted."""
    head = svg.tag("p", svg.tag("b", clean(run.name)), f" · {run.state} · {_progress(run)}")
    rows = [
        (f"{clean(split)} {title_of(name)}", show_number(value))
        for split, figures in facts.final_metrics(run).items()
        for name, value in list(figures.items())[:4]
    ]
    for line in facts.compared(run):
        measured, predicted = (show_measured(line.name, value) for value in (line.measured, line.predicted))
        rows.append((title_of(line.name), f"{measured}, predicted {predicted}"))
    chart = svg.line_chart(loss_chart(run), width=WIDE_PX, height=260)
    style = Markup("<style>.bigbatch {{ svg.chart {{ max-width: 900px; }} {} }}</style>").format(
        Markup(FIGURE_STYLE)
    )
    return str(svg.tag("div", style, head, chart, table(rows), class_="bigbatch"))


def table(rows: Iterable[tuple[str, str]]) -> Markup:
    """Two columns."""
    return svg.tag(
        "table", *(svg.tag("tr", svg.tag("th", name), svg.tag("td", value)) for name, value in rows)
    )


def framed(page: str, title: str) -> str:
    """A whole page inside a notebook's cell, in a frame that runs no scripts and is of no origin."""
    words = html.escape(page, quote=True), html.escape(clean(title), quote=True)
    size = f'width="100%" height="{_FRAME_PX}" style="border:0"'
    return f'<iframe sandbox srcdoc="{words[0]}" title="{words[1]}" {size}></iframe>'


def _progress(run: RunData) -> str:
    last, samples = facts.last(run, "step"), facts.last(run, "samples")
    return "no update yet" if last is None else f"update {show_number(last)}, {show_number(samples)} samples"
