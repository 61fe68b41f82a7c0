"""Templates filled in, charts as files of their own, and files written in one step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jinja2
from markupsafe import Markup

import bigbatch
from bigbatch.errors import DiskError
from bigbatch.report import svg
from bigbatch.written import as_named, make_folders, replace_text


def render(template: str, view: Mapping[str, object]) -> str:
    """Fill one of the room's templates; whatever is not Markup is escaped."""
    loader = jinja2.PackageLoader("bigbatch.report")
    setting = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return setting.get_template(template).render(version=bigbatch.__version__, **view)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never half of one.

    Raises:
        DiskError: it cannot be written, or a folder lies in its place.
    """
    try:
        replace_text(as_named(path), text)
    except OSError as error:
        raise DiskError(
            f"cannot write {path}: {error.strerror or error}; move away what is there, or make room"
        ) from error


FIGURE_STYLE = """
text { fill: #5b616e; font: 11.5px Inter, "Helvetica Neue", Arial, sans-serif; } .legend { fill: #191b20; }
.rule { stroke: #eeece7; } .axis { stroke: #c9c6bd; } .mark { stroke: #5b616e; stroke-dasharray: 2 4; }
.flag { fill: #5b616e; } .line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.faint { stroke-width: 1; opacity: .28; } .dashed { stroke-dasharray: 6 5; }
.dot { fill: currentColor; stroke: #ffffff; stroke-width: 1.5; }
.tone-1 { color: #3452d1; } .tone-2 { color: #d9480f; } .tone-3 { color: #087f8c; } .tone-4 { color: #6b4fbb; }
.tone-5 { color: #2b8a3e; } .tone-6 { color: #b02a72; } .tone-7 { color: #8a6d00; } .tone-8 { color: #4b5563; }
"""
WIDTH_PX, HEIGHT_PX = 720, 340


def svg_file(chart: svg.Chart) -> str:
    """The chart as the text of an SVG file."""
    drawn = svg.line_chart(chart, width=WIDTH_PX, height=HEIGHT_PX)
    # The margin keeps letters at the edge inside; the page around an inline chart has one of its own.
    opening, _, rest = str(drawn).partition(">")
    box = opening.split('viewBox="0 0 ')[1].split('"')[0]
    width, height = (float(length) for length in box.split())
    opening = opening.replace(f'viewBox="0 0 {box}"', f'viewBox="-16 -12 {width + 32:g} {height + 24:g}"')
    head = opening.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    paper = svg.tag("rect", x=-16, y=-12, width=f"{width + 32:g}", height=f"{height + 24:g}", fill="#ffffff")
    return f"{head}><style>{FIGURE_STYLE}</style>{paper}{Markup(rest)}\n"


def write_figure(path: Path, chart: svg.Chart) -> None:
    """Write the chart; an older one is replaced in one step."""
    make_folders(path.parent)
    write_atomic(path, svg_file(chart))
