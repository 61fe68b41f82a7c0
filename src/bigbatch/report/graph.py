"""The analysis of a micro-batch as a picture and a page: one row a part, its modules side by side, findings below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from markupsafe import Markup

from bigbatch.plan.graph import Cost, Finding, GraphAnalysis, ModuleCost, Padding, PartCost
from bigbatch.plan.graph_words import (
    graph_lines,
    heading,
    notable,
    padding_sentence,
    show_milliseconds,
    summary,
)
from bigbatch.report import shapes
from bigbatch.report.figures import CARD_PX, WIDE_PX
from bigbatch.report.page import render, write_atomic
from bigbatch.report.svg import LETTER_PX, picture, px, tag
from bigbatch.report.text import clean, shorten, show_share
from bigbatch.units import show_bytes, show_flops

_ROW_PX = 46
_BAR_PX = 22
_PALE = 0.25


def write_graph_page(graph: GraphAnalysis, path: Path, name: str) -> Path:
    """Write the analysis as one offline HTML file; an older one is replaced in one step.

    Args:
        graph: what was found.
        path: where the page goes.
        name: what was analysed: the recipe, say.
    """
    write_atomic(path, render("graph.html.j2", {"name": clean(name), "graph": graph_view(graph)}))
    return path


def graph_told(graph: GraphAnalysis, page: bool | str | PathLike[str], name: str) -> list[str]:
    """The analysis as lines for the console; a path is where the page goes, and then the last line.

    Args:
        graph: what was found.
        page: where the page goes; True: there is to be none.
        name: of the recipe, for its title.
    """
    lines = graph_lines(graph)
    return lines if isinstance(page, bool) else [*lines, str(write_graph_page(graph, Path(page), name))]


def section_of(content: Mapping[str, object]) -> dict[str, object] | None:
    """What the report's section shows; None without a readable `graph.json`."""
    try:
        return graph_view(GraphAnalysis.from_json(content)) if content else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def graph_view(graph: GraphAnalysis) -> dict[str, object]:
    """Everything that the templates show, ready to be written."""
    cost = graph.cost
    return {
        "summary": [clean(line) for line in summary(graph)],
        "figure": graph_figure(graph),
        "findings": [_finding_view(finding, cost) for finding in notable(graph)],
        "smaller": len(graph.findings) - len(notable(graph)),
        "padding_figure": None if graph.padding is None else padding_ways(graph.padding),
        "notes": [clean(note) for note in graph.notes],
        "parts": [_part_row(part, cost) for part in graph.parts],
        "modules": [
            {"part": clean(part.name), **_module_row(module)}
            for part in graph.parts
            for module in part.modules
        ],
        "timed": cost.seconds is not None,
    }


def _finding_view(finding: Finding, cost: Cost) -> dict[str, str]:
    share = finding.flops / cost.flops if cost.flops else 0.0
    return {
        "kind": heading(finding.kind),
        "what": clean(finding.what),
        "share": show_share(share, 1) if share >= 0.001 else "",
        "time": show_milliseconds(finding.seconds) if finding.seconds and finding.seconds >= 0.001 else "",
    }


def _part_row(part: PartCost, cost: Cost) -> dict[str, str]:
    own = part.cost
    return {
        "name": clean(part.name),
        "forward": show_flops(own.forward_flops),
        "backward": show_flops(own.backward_flops + own.recompute_flops),
        "share": show_share(own.flops / cost.flops if cost.flops else 0.0, 1),
        "moved": show_bytes(own.moved_bytes),
        "kept": show_bytes(own.kept_bytes),
        "seconds": "" if own.seconds is None else show_milliseconds(own.seconds),
        "unread": show_flops(part.unread_flops) if part.unread_flops else "",
    }


def _module_row(module: ModuleCost) -> dict[str, str]:
    return {
        "name": clean(module.name) or "·",
        "kind": clean(module.kind),
        "flops": show_flops(module.cost.flops),
        "moved": show_bytes(module.cost.moved_bytes),
        "kept": show_bytes(module.cost.kept_bytes),
        "unread": "" if not module.unread_fraction else show_share(module.unread_fraction, 1),
    }


# ---------------------------------------------------------------- pictures


def graph_figure(graph: GraphAnalysis) -> Markup:
    """A desktop and a phone drawing; the style sheet shows one."""
    wide, narrow = (draw_graph(graph, width=width) for width in (WIDE_PX, CARD_PX))
    return tag("div", wide, class_="wide") + tag("div", narrow, class_="narrow")


def draw_graph(graph: GraphAnalysis, *, width: float) -> Markup:
    """Data flows downwards. A row is a part, as long as its FLOPs; pale is what is computed and never read.

    Args:
        graph: what was found.
        width: of the view box, in pixels.
    """
    cost = graph.cost
    longest = max((part.cost.flops for part in graph.parts), default=0) or 1
    left = 14.0
    drawn: list[Markup] = []
    for number, part in enumerate(graph.parts):
        top = number * _ROW_PX
        note = _note(part, cost, wide=width > 500)
        room = int((width - left) / LETTER_PX) - len(note) - 2
        drawn.append(
            tag("text", shorten(clean(part.name), max(room, 8)), x=px(left), y=top + 12, class_="legend")
        )
        drawn.append(tag("text", note, x=px(width), y=top + 12, text_anchor="end", class_="label"))
        drawn.append(
            tag("rect", x=px(left), y=top + 18, width=px(width - left), height=_BAR_PX, rx=4, class_="track")
        )
        drawn.extend(_segments(part, left, top + 18, (width - left) / longest))
        if number:
            drawn.append(_arrow(5, top - _ROW_PX + 29, top + 29))
    words = f"{len(graph.parts)} parts, {show_flops(cost.flops)} in all. " + _largest(graph.parts)
    height = len(graph.parts) * _ROW_PX
    return picture(width, height, "What a micro-batch computes", words, *drawn)


def _note(part: PartCost, cost: Cost, *, wide: bool) -> str:
    """A row's figures, at its right end."""
    if not part.cost.flops:
        return f"{show_bytes(part.cost.moved_bytes)} moved"
    words = [show_flops(part.cost.flops), show_share(part.cost.flops / (cost.flops or 1), 1)]
    if wide:
        words.append(f"{show_bytes(part.cost.moved_bytes)} moved")
        words += [f"{show_bytes(part.cost.kept_bytes)} kept"] if part.cost.kept_bytes else []
        words += [f"{show_flops(part.unread_flops)} never read"] if part.unread_flops else []
    return " · ".join(words)


def _segments(part: PartCost, left: float, top: float, scale: float) -> list[Markup]:
    """A part's modules side by side: the read share solid, the unread share pale."""
    drawn: list[Markup] = []
    x = left
    busy = [module for module in part.modules if module.cost.flops]
    for number, module in enumerate(busy):
        unread = module.unread_fraction or 0.0
        name = ".".join(clean(module.name or part.name).split(".")[-2:])
        size = scale * module.cost.flops
        gap = 1.0 if size > 4 else 0.0
        words = _hover(part, module)
        for share, opacity in ((1 - unread, None), (unread, _PALE)):
            length = max(0.0, size * share - (gap if share else 0.0))
            if length > 0:
                drawn.append(
                    tag(
                        "rect",
                        tag("title", words),
                        x=px(x),
                        y=px(top),
                        width=px(length),
                        height=_BAR_PX,
                        rx=2,
                        class_=f"fill tone-{1 + number % 2 * 2}",
                        fill_opacity=opacity,
                    )
                )
                if opacity is None and LETTER_PX * len(name) + 12 < length:
                    seat = {"x": px(x + length / 2), "y": px(top + 15)}
                    drawn.append(tag("text", name, class_="count small deep mid", **seat))
            x += size * share
    return drawn


def _hover(part: PartCost, module: ModuleCost) -> str:
    name = module.name or part.name
    kind = f" ({module.kind})" if module.kind else ""
    cost, unread = module.cost, module.unread_fraction
    never = f", {show_share(unread, 1)} of its positions never read" if unread else ""
    return f"{name}{kind}: {show_flops(cost.forward_flops)} forward, {show_flops(cost.backward_flops)} backward{never}"


def _arrow(x: float, start: float, end: float) -> Markup:
    """From one row's bar to the next."""
    tip = f"{px(x)},{px(end)} {px(x - 4)},{px(end - 7)} {px(x + 4)},{px(end - 7)}"
    return tag(
        "g",
        tag("line", x1=px(x), x2=px(x), y1=px(start), y2=px(end - 6), class_="axis"),
        tag("polygon", points=tip, class_="flag"),
    )


def _largest(parts: Sequence[PartCost]) -> str:
    """For people who cannot see the drawing."""
    if not parts:
        return ""
    part = max(parts, key=lambda one: one.cost.flops)
    return f"The largest is {clean(part.name)} with {show_flops(part.cost.flops)}."


def padding_ways(padding: Padding) -> Markup:
    """Computed tokens of each way of cutting the batch."""
    ways = (
        ("Random batches of 32, padded", padding.random_32),
        ("Sorted by length, batches of 32, padded", padding.sorted_32),
        ("Sorted, micro-batches of the plan's size, padded", padding.sorted_budget),
        ("Packed", padding.packed),
    )
    rows = [
        shapes.Bar(
            name=name,
            parts=[
                ("real tokens", padding.real_tokens, 1),
                ("padding", padding.real_tokens * share / (1 - share), 2),
            ],
            note=f"{show_share(share, 1)} padding",
        )
        for name, share in ways
    ]
    words = padding_sentence(padding)
    wide, narrow = (
        shapes.bars(rows, title="Padding", description=words, width=width) for width in (WIDE_PX, CARD_PX)
    )
    return tag("div", wide, class_="wide") + tag("div", narrow, class_="narrow")
