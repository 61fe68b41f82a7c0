"""A figure that steers a run must exist: refused before the first update where the data cannot have it, told at the
first evaluation otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bigbatch.data.mixture import parts_by_source
from bigbatch.errors import Problem, RecipeError
from bigbatch.infer.evaluate import EvalResult, impossible_figures, perfect_figures
from bigbatch.metrics.bleu import is_written
from bigbatch.metrics.naming import is_own, reported_names
from bigbatch.metrics.watched import asked_figures, figure_of, judged_sources, validation_splits
from bigbatch.protocols import Metric
from bigbatch.recipe.schema import Recipe
from bigbatch.records import Event, Record
from bigbatch.samples import Table
from bigbatch.store.progress import Progress
from bigbatch.tasks.base import Task
from bigbatch.tasks.computed import ComputedMetrics

if TYPE_CHECKING:
    from bigbatch.build.parts import Parts


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A watched figure that an evaluation did not have."""

    place: str
    """Key of the recipe that names it."""
    figure: str
    """`roc_auc_ovr of validation`."""
    reason: str
    ends: bool
    """Whether the run cannot be steered by it."""


def check_defined(recipe: Recipe, task: Task, tables: Mapping[str, Table]) -> None:
    """Refuse to be steered by a figure that even a perfect model would not have on its split.

    A `compute_metrics` is called with what a perfect model would give: one that fails does so before the first update,
    and then the names of its figures are known.

    Args:
        recipe: says which figures steer: those of `best`, `early_stopping` and `gate`.
        task: that has seen the training targets.
        tables: split name -> tokenised rows.

    Raises:
        RecipeError: all of them, with the reason.
    """
    where = recipe.source.name if recipe.source else "recipe"
    tables = _judged_tables(recipe, tables)
    problems = list(_not_computed(recipe, task, tables, where))
    every = recipe.run.generate_every
    for place, key, splits in asked_figures(recipe, tables):
        split, metric = figure_of(key, splits)
        steered = not place.startswith("gate.") and str(every) != "1 evaluations"
        if steered and any(is_written(each) and each.name == metric for each in task.metrics):
            what = (
                f"{metric} is of texts, which not every evaluation writes (run.generate_every: {every}): name a figure "
                "of tokens, such as loss, or leave run.generate_every out"
            )
            problems.append(Problem(where=where, key=place, what=what))
        reason = impossible_figures(task, tables[split], _known(task.metrics, metric)).get(metric)
        if reason is not None:
            what = f"{metric} of {split} cannot be known on these data: {reason}; name another figure or other data"
            problems.append(Problem(where=where, key=place, what=what))
    if problems:
        raise RecipeError(problems)


def of_judged(results: Mapping[str, EvalResult]) -> dict[str, EvalResult]:
    """Results by the names that records have: of splits, and of the sources that they are judged by."""
    found = dict(results)
    for split, result in results.items():
        found |= {f"{split}.{name}": part for name, part in result.by_source.items()}
    return found


def _judged_tables(recipe: Recipe, tables: Mapping[str, Table]) -> dict[str, Table]:
    """The splits, and the parts of one that are judged by themselves."""
    found = dict(tables)
    if names := judged_sources(recipe, tables):
        parts = (part for _, _, part in parts_by_source(tables["validation"]))
        found |= dict(zip(names, parts, strict=False))
    return found


def _not_computed(recipe: Recipe, task: Task, tables: Mapping[str, Table], where: str) -> Iterator[Problem]:
    """Watched figures that the caller's `compute_metrics` does not give, nor anybody else."""
    computed = [metric for metric in task.metrics if isinstance(metric, ComputedMetrics)]
    others = [metric for metric in task.metrics if metric not in computed]
    if not computed or any(is_own(metric) for metric in others):
        return
    known = {"loss", *(name for metric in others for name in reported_names(metric))}
    splits = validation_splits(tables)
    given = {split: perfect_figures(task, tables[split], computed) for split in splits}
    for place, key, looked_at in asked_figures(recipe, tables):
        split, metric = figure_of(key, looked_at)
        names = given.get(split)
        if names is not None and metric not in {*known, *names}:
            what = f"{metric!r} is not among the figures that compute_metrics gives: {', '.join(names)}"
            yield Problem(where=where, key=place, what=what)


def look(between: Any, known: list[Missing]) -> Iterator[Record]:
    """After an evaluation: say which watched figures do not exist; a run that none of them can steer ends here.

    Args:
        between: of the run.
        known: what was said already; more is added.

    Raises:
        RecipeError: naming the keys, and how to go on with another figure.
    """
    missing = missing_figures(between.parts, between.progress, between.results)
    for each in missing:
        if each not in known:
            known.append(each)
            yield between.emit(told(each, between.progress.update))
    if any(each.ends for each in missing):
        yield between.emit(between.save("a watched figure does not exist"))
        refuse(between.parts.recipe, missing)


def missing_figures(parts: Parts, progress: Progress, results: Mapping[str, EvalResult]) -> list[Missing]:
    """Watched figures that the evaluation that has just been made does not have.

    Args:
        parts: of the run.
        progress: holds the figures; not yet told of this evaluation.
        results: of this evaluation, by split.
    """
    recipe, metrics, results = parts.recipe, parts.metrics, of_judged(results)
    asked = asked_figures(recipe, results)
    if not recipe.best.metric:  # what chooses the weights all the same
        asked.append(("best", parts.best_metric or "loss", [*results]))
    found = []
    for place, key, splits in asked:
        split, metric = figure_of(key, splits)
        value = progress.figures[split].get(metric)
        if value is not None:
            continue
        said = results[split].undefined.get(metric)
        known = metric == "loss" or bool(_known(metrics, metric))
        found.append(
            Missing(
                place=place,
                figure=f"{metric} of {split}",
                reason=said or _why_absent(results[split].metrics, metric),
                # Of figures of our own the data have been asked: what is missing is the model's doing, and may pass.
                # So may NaN, unless it would stop the run: `best` takes the first number that comes.
                ends=not known
                and not _had(place, key, progress)
                and (results[split].metrics.get(metric) is None or place == "early_stopping.metric"),
            )
        )
    return found


def told(missing: Missing, step: int) -> Event:
    """What the journal and the console say of it."""
    did = "ends the run, which cannot be steered by it" if missing.ends else "counts as not improved"
    why = f"{missing.place}: {missing.figure} does not exist: {missing.reason}"
    return Event(step=step, event="undefined_figure", why=why, did=did)


def refuse(recipe: Recipe, missing: Sequence[Missing]) -> None:
    """End a run that is steered by what does not exist.

    Raises:
        RecipeError: naming the keys, and how to go on with another figure.
    """
    where = recipe.source.name if recipe.source else "recipe"
    problems = [
        Problem(
            where=where,
            key=each.place,
            what=f"{each.figure} does not exist: {each.reason}; this evaluation is saved: name another figure and go "
            f"on with --continue RUN{'' if each.place.startswith('gate.') else f' --allow {each.place}'}",
        )
        for each in missing
        if each.ends
    ]
    if problems:
        raise RecipeError(problems)


def _known(metrics: Sequence[Metric], name: str) -> list[Metric]:
    """The metrics of this project that report a figure of this name."""
    return [metric for metric in metrics if not is_own(metric) and name in reported_names(metric)]


def _why_absent(metrics: Mapping[str, float | None], name: str) -> str:
    if name not in metrics:
        return f"the evaluation reports {', '.join(metrics)}"
    value = metrics[name]
    return (
        "the metric gave none"
        if value is None
        else f"it is {'not a number' if math.isnan(value) else 'infinite'}"
    )


def _had(place: str, key: str, progress: Progress) -> bool:
    """Whether an earlier evaluation had the figure."""
    if place == "best":
        return progress.best is not None and progress.best.metric == key
    if place == "early_stopping.metric":
        return progress.stop_best is not None
    return progress.evaluations > 0
