"""The analysis of a micro-batch as lines for people: a table of parts, then what could be left out."""

from __future__ import annotations

from bigbatch.plan.graph import Cost, Finding, GraphAnalysis, Padding, PartCost, Plain
from bigbatch.units import show_bytes, show_flops, show_seconds

SHOWN = 12
"""Findings that the console lists."""
_ALWAYS = ("sync", "parameter", "padding", "collected")
_LEAST_FLOPS = 1e-3
_LEAST_BYTES = 5e-3
_LEAST_SECONDS = 5e-3
_HEADINGS = {
    "unread": "positions nobody reads",
    "unused": "results nobody uses",
    "repeated": "computed more than once",
    "sync": "waits for the GPU",
    "cast": "changes of dtype",
    "copy": "copies",
    "fill": "fills",
    "parameter": "without gradient",
    "padding": "padding",
    "collected": "kept for nobody",
}


def graph_lines(graph: GraphAnalysis) -> list[str]:
    """What one micro-batch costs, by part, and what of it could be left out, for the console."""
    return [*summary(graph), "", *_table(graph), "", *_findings(graph), *_rest(graph)]


def summary(graph: GraphAnalysis) -> list[str]:
    """The micro-batch and its cost, and that of the plain way, a sentence each."""
    cost = graph.cost
    padded = graph.computed_tokens - graph.real_tokens
    tokens = f"{graph.real_tokens:,} real tokens" + (f" and {padded:,} of padding" if padded else "")
    again = f", {show_flops(cost.recompute_flops)} recomputed" if cost.recompute_flops else ""
    plain = [] if graph.plain is None else [_against(graph.plain, cost)]
    return [
        f"one micro-batch, {graph.forward}: {graph.samples:,} samples, {tokens}; {graph.precision} on {graph.device}",
        f"{show_flops(cost.flops)} ({show_flops(cost.forward_flops)} forward, {show_flops(cost.backward_flops)} "
        f"backward{again}); {show_bytes(cost.read_bytes)} read, {show_bytes(cost.written_bytes)} written; "
        f"{show_bytes(cost.kept_bytes)} kept for the backward pass",
        *plain,
    ]


def _against(plain: Plain, cost: Cost) -> str:
    less = 1 - cost.flops / plain.cost.flops if plain.cost.flops else 0.0
    return (
        f"the plain way (padded, every position): {plain.computed_tokens:,} tokens, {show_flops(plain.cost.flops)}, "
        f"{show_bytes(plain.cost.moved_bytes)} moved, {show_bytes(plain.cost.kept_bytes)} kept; "
        f"{abs(100 * less):.1f} % {'fewer' if less >= 0 else 'more'} FLOPs this way"
    )


def heading(kind: str) -> str:
    """A kind of finding in words."""
    return _HEADINGS[kind]


def notable(graph: GraphAnalysis) -> list[Finding]:
    """The findings worth a line: at least a thousandth of the FLOPs, or half a per cent of bytes or seconds."""
    cost = graph.cost
    return [
        finding
        for finding in graph.findings
        if finding.kind in _ALWAYS
        or finding.flops > _LEAST_FLOPS * cost.flops
        or finding.moved_bytes > _LEAST_BYTES * cost.moved_bytes
        or (finding.seconds or 0.0) > _LEAST_SECONDS * (cost.seconds or float("inf"))
    ]


def padding_sentence(padding: Padding) -> str:
    """What other ways of cutting the batch would pad."""
    ways = (
        (padding.random_32, "random batches of 32"),
        (padding.sorted_32, "batches of 32 sorted by length"),
        (padding.sorted_budget, "micro-batches of the plan's size, sorted and padded"),
    )
    shares = ", ".join(f"{100 * share:.1f} % in {words}" for share, words in ways)
    batch = f"{padding.samples:,} samples ({padding.real_tokens:,} real tokens)"
    return f"padding of a batch of {batch}: {shares}, none packed"


def _table(graph: GraphAnalysis) -> list[str]:
    head = ("part", "forward", "backward", "share", "moved", "kept", "seconds", "for nobody")
    rows = [head, *(_row(part, graph) for part in graph.parts)]
    if all(part.cost.seconds is None for part in graph.parts):
        rows = [(*row[:6], row[7]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _row(part: PartCost, graph: GraphAnalysis) -> tuple[str, ...]:
    cost = part.cost
    return (
        part.name,
        show_flops(cost.forward_flops) if cost.forward_flops else "",
        show_flops(cost.backward_flops + cost.recompute_flops) if cost.backward_flops else "",
        f"{100 * cost.flops / graph.cost.flops:.1f} %" if cost.flops else "",
        show_bytes(cost.moved_bytes),
        show_bytes(cost.kept_bytes) if cost.kept_bytes else "",
        "" if cost.seconds is None else f"{cost.seconds:.3f}",
        show_flops(part.unread_flops) if part.unread_flops else "",
    )


def _findings(graph: GraphAnalysis) -> list[str]:
    worth = notable(graph)
    lines = [f"{heading(finding.kind)}: {_told(finding)}" for finding in worth[:SHOWN]]
    left = len(graph.findings) - min(len(worth), SHOWN)
    if left:
        lines.append(f"and {left} smaller {'finding' if left == 1 else 'findings'}")
    return lines or ["nothing is computed in vain"]


def _told(finding: Finding) -> str:
    slow = finding.seconds is not None and finding.seconds >= 0.005
    return finding.what + (f" ({show_milliseconds(finding.seconds or 0)})" if slow else "")


def show_milliseconds(seconds: float) -> str:
    """`12 ms`; whole seconds as elsewhere."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else show_seconds(seconds)


def _rest(graph: GraphAnalysis) -> list[str]:
    lines = [padding_sentence(graph.padding)] if graph.padding else []
    if graph.cost.seconds is not None:
        lines.append(
            "seconds were measured once, under observation: they tell parts apart, not how fast it is"
        )
    return [*lines, *(f"note: {note}" for note in graph.notes)]
