"""Several runs next to each other: what was asked for differently, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigbatch.errors import UsageError
from bigbatch.report import facts, figures
from bigbatch.report.notebook import framed
from bigbatch.report.page import render, write_atomic
from bigbatch.report.read import RunData, read_run
from bigbatch.report.recipes import differing_keys, flat_recipe
from bigbatch.report.text import clean, shorten, show_number, show_share, title_of
from bigbatch.units import show_bytes, show_seconds

_CELL_LETTERS = 32
_IGNORED_KEYS = ("run.dir",)
"""Differs between any two runs and says nothing."""
_SHOWN_METRICS = 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: what it is, and each run's value as text."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs side by side."""

    names: tuple[str, ...]
    recipe: tuple[Row, ...]
    """Recipe keys whose values differ."""
    results: tuple[Row, ...]
    warnings: tuple[str, ...]
    """Why figures may not be comparable."""
    html: str
    """The same with overlaid curves: one offline page."""

    def _repr_html_(self) -> str:
        """A notebook's cell: the page in a frame without scripts."""
        return framed(self.html, "comparison of runs")

    def lines(self) -> list[str]:
        """The table as lines of text for a terminal."""
        blocks = [("recipe", self.recipe), ("results", self.results)]
        rows = [row for _, rows in blocks for row in rows]
        if not rows:
            return ["The runs have the same recipe, and none has results yet."]
        cells = [[row.name, *(shorten(value, _CELL_LETTERS) for value in row.values)] for row in rows]
        head = ["", *(shorten(name, _CELL_LETTERS) for name in self.names)]
        widths = [max(len(line[number]) for line in [head, *cells]) for number in range(len(head))]
        lines = [_line(head, widths)]
        for title, block in blocks:
            if block:
                lines += ["", title]
                lines += [_line(cells[rows.index(row)], widths) for row in block]
        return lines + [""] * bool(self.warnings) + [f"note: {warning}" for warning in self.warnings]


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Read runs and put them side by side.

    Args:
        paths: two or more run directories; the first one comes first everywhere.

    Raises:
        UsageError: fewer than two, or one that holds no run.
    """
    if len(paths) < 2:
        raise UsageError(f"compare needs at least two run directories, found {len(paths)}")
    runs = [read_run(path) for path in paths]
    names = _names(runs)
    recipes = [flat_recipe(run.recipe) for run in runs]
    keys = [key for key in differing_keys(recipes) if key not in _IGNORED_KEYS]
    settings = {key: tuple(_setting(key, one.get(key)) for one in recipes) for key in keys}
    recipe = tuple(Row(name=clean(key), values=values) for key, values in settings.items())
    results = tuple(_results(runs))
    warnings = tuple(_warnings(runs))
    view = {
        "names": names,
        "recipe": recipe,
        "results": results,
        "warnings": warnings,
        "charts": _charts(runs, names),
    }
    html = render("compare.html.j2", view)
    return Comparison(names=names, recipe=recipe, results=results, warnings=warnings, html=html)


def write_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Write the page; an older one is replaced in one step."""
    write_atomic(Path(path), comparison.html)
    return Path(path)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join([first, *rest]).rstrip()


def _names(runs: Sequence[RunData]) -> tuple[str, ...]:
    """Directory names; with their parents where two are the same."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    return tuple(clean(name) for name in names)


def _setting(key: str, value: str | None) -> str:
    """A recipe value; the whole line goes through `clean`, which knows secrets by their key."""
    return "–" if value is None else clean(f"{key}: {value}")[len(clean(key)) + 2 :]


def _results(runs: Sequence[RunData]) -> list[Row]:
    """Best, final metrics and costs; a row that no run has is left out."""
    rows = [Row(name="state", values=tuple(clean(run.state) for run in runs))]
    rows += _best_rows(runs)
    metrics = [facts.final_metrics(run) for run in runs]
    for split in dict.fromkeys(name for one in metrics for name in one):
        names = list(dict.fromkeys(name for one in metrics for name in one.get(split, {})))
        for name in names[:_SHOWN_METRICS]:
            values = tuple(show_number(one.get(split, {}).get(name)) for one in metrics)
            rows.append(Row(name=f"{clean(split)} {clean(name)}", values=values))
    rows += [
        _cost("updates", [run.updates.num_rows for run in runs], show_number),
        _cost("samples", [facts.last(run, "samples") for run in runs], show_number),
        _cost("training time", [facts.train_seconds(run) for run in runs], show_seconds),
        _cost("samples/s", [facts.per_second(run, "batch_samples") for run in runs], show_number),
        _cost("real tokens/s", [facts.per_second(run, "batch_tokens") for run in runs], show_number),
        _cost("peak memory", [facts.measured(run, "peak_memory_bytes") for run in runs], show_bytes),
        _cost(
            "padding",
            [facts.measured(run, "padding_share") for run in runs],
            lambda part: show_share(part, 1),
        ),
        _cost(
            "inference, samples/s",
            [facts.measured(run, "inference_samples_per_second") for run in runs],
            show_number,
        ),
    ]
    return [row for row in rows if any(value != "–" for value in row.values)]


def _best_rows(runs: Sequence[RunData]) -> list[Row]:
    """One row for each metric that a run is judged by: two runs may be judged by different ones."""
    bests = [facts.best(run) for run in runs]
    rows = []
    for metric in dict.fromkeys(best.metric for best in bests if best):
        values = (show_number(best.value) if best and best.metric == metric else "–" for best in bests)
        rows.append(Row(name=f"best {clean(metric)}", values=tuple(values)))
    return rows


def _cost(name: str, found: Sequence[float | None], show: Callable[[float], str]) -> Row:
    return Row(name=name, values=tuple("–" if value is None else show(value) for value in found))


def _warnings(runs: Sequence[RunData]) -> list[str]:
    warnings = []
    prints = [run.environment.get("data_fingerprint") for run in runs]
    if len({str(one) for one in prints if one}) > 1:
        warnings.append("The runs read different data, so their metrics need not be comparable.")
    going = [clean(run.name) for run in runs if run.state != "finished"]
    if going:
        warnings.append(f"Not finished: {', '.join(going)}. Their figures are those so far.")
    return warnings


def _charts(runs: Sequence[RunData], names: Sequence[str]) -> dict[str, object]:
    """Overlaid training loss, and one small chart for the evaluation loss and each leading metric."""
    losses = [(name, figures.update_points(run, "loss")) for name, run in zip(names, runs, strict=True)]
    evaluations = []
    metrics = dict.fromkeys(name for run in runs for name in figures.leading_metrics(run))
    for metric in ["loss", *list(metrics)[:2]]:
        curves = [
            (name, figures.eval_points(run, split, metric))
            for name, run in zip(names, runs, strict=True)
            if (split := _watched_split(run)) is not None
        ]
        if any(points for _, points in curves):
            heading = "Evaluation loss" if metric == "loss" else title_of(metric)
            chart = figures.overlay(heading, "", curves, zero=False, linked=True)
            evaluations.append((heading, "On validation data, over samples.", figures.small(chart)))
    return {
        "loss": figures.responsive(figures.overlay("Training loss", "nats", losses, zero=True)),
        "evaluations": evaluations,
    }


def _watched_split(run: RunData) -> str | None:
    """The split that was evaluated during training: the first that is not the test split."""
    splits = figures.splits_of(run)
    return next((split for split in splits if split != "test"), splits[0] if splits else None)
