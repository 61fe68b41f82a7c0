"""How large a batch is worth using: the noise scale's curve with its band, the batch in use, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping

from bigbatch.report import facts, svg
from bigbatch.report.figures import responsive, update_points
from bigbatch.report.read import RunData
from bigbatch.report.text import clean, show_number
from bigbatch.rules.noise_scale import FEWEST

_MUCH = 3.0
"""So many times larger or smaller than the noise scale is worth a word."""


def noise_section(run: RunData) -> dict[str, object] | None:
    """Sentence, chart and groups; None when nothing was measured."""
    measured = [value for value in facts.column(run, "noise_scale_measurements") if value is not None]
    if not measured:
        return None
    return {
        "sentence": sentence(run),
        "caption": f"{show_number(measured[-1])} updates were measured. The band is the 95 % interval; where it has "
        "no upper end, the curve of the lower end stands alone.",
        "chart": responsive(_chart(run), height=240),
        "groups": _groups(run),
    }


def sentence(run: RunData) -> str:
    """`A batch of about 230 samples is worth using (95 %: 180 to 310); you use 256.`"""
    latest = _latest(run)
    scale, low, high = (facts.number(latest.get(key)) for key in ("noise_scale", *_BOUNDS))
    used = facts.last(run, "batch_samples")
    count = facts.number(latest.get("noise_scale_measurements"))
    if low is None and count is not None and count < FEWEST:
        few = f"{show_number(count)} {'update was' if count == 1 else 'updates were'}"
        return f"{few} measured: {FEWEST} are needed to say how large a batch is worth using."
    if scale is None:
        words = "How large a batch is worth using is larger than measurable"
    else:
        words = f"A batch of about {_samples(scale)} is worth using"
    words += f"{_interval(low, high)}; you use {show_number(used)}."
    return f"{words} {_advice(used, low, high)}".rstrip()


_BOUNDS = ("noise_scale_low", "noise_scale_high")


def _latest(run: RunData) -> Mapping[str, object]:
    """The noise fields of the newest update that was measured."""
    steps = facts.column(run, "noise_scale_measurements")
    row = max(index for index, value in enumerate(steps) if value is not None)
    names = [name for name in run.updates.column_names if name.startswith("noise_scale")]
    return {name: run.updates[name][row].as_py() for name in names}


def _interval(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    if high is None:
        return f" (95 %: at least {show_number(round(low))})"
    return f" (95 %: {show_number(round(low))} to {show_number(round(high))})"


def _advice(used: float | None, low: float | None, high: float | None) -> str:
    """Only where the whole interval says so."""
    if low is None or not used:
        return ""
    if low > _MUCH * used:
        return "A larger batch would need almost proportionally fewer updates."
    if high is not None and used > _MUCH * high:
        return "A smaller batch would need fewer samples, and hardly more updates."
    return ""


def _samples(value: float) -> str:
    return f"{show_number(round(value))} {'sample' if round(value) == 1 else 'samples'}"


def _chart(run: RunData) -> svg.Chart:
    curves: tuple[tuple[str, str, int, svg.Style], ...] = (
        ("noise scale", "noise_scale", 1, "linked"),
        ("95 %, lower end", _BOUNDS[0], 1, "dashed"),
        ("95 %, upper end", _BOUNDS[1], 1, "dashed"),
        ("Adam's units", "noise_scale_adam", 3, "line"),
        ("batch in use", "batch_samples", 2, "line"),
    )
    series = [
        svg.Series(name=name, points=points, tone=tone, style=style)
        for name, column, tone, style in curves
        if (points := [(x, y) for x, y in update_points(run, column) if y > 0])
    ]
    return svg.Chart(
        title="Noise scale",
        description=sentence(run),
        x_label="samples",
        y_label="samples",
        series=series,
        log=True,
    )


def _groups(run: RunData) -> list[tuple[str, str]]:
    """(group, noise scale) of embeddings, blocks and head, as last measured."""
    prefix = "noise_scale."
    found = [
        (name.removeprefix(prefix), facts.number(value))
        for name, value in _latest(run).items()
        if name.startswith(prefix)
    ]
    return [
        (clean(name), "larger than measurable" if value is None else _samples(value)) for name, value in found
    ]
