"""Which weights are kept, and whether validation still improves: evaluations are paired row by row.

The figure of a few hundred rows moves by points where nothing has changed. So an earlier evaluation replaces the final
one only where it was better by more than chance on the same rows (`rules.paired`); as the best of several it had as
many chances to look good, which counts against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bigbatch.build.defined import of_judged
from bigbatch.infer.evaluate import EvalResult
from bigbatch.metrics.row_scores import scored_by_itself
from bigbatch.metrics.watched import better, figure_of
from bigbatch.rules.paired import BEYOND_CHANCE, Paired, best_of, paired
from bigbatch.store.progress import Best, Progress

if TYPE_CHECKING:
    from bigbatch.build.parts import Parts

BEST, STOPPING = "best", "stopping"
"""Names of the row scores that a checkpoint holds: of the best evaluation, and of the one that stopping is held to."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The weights that a run keeps, and why: `kept` of result.json."""

    update: int
    """After which the weights are as they were kept."""
    of: Literal["final", "best"]
    why: str
    """A sentence."""
    metric: str | None = None
    """What the best evaluation was the best by; None without one."""
    best_update: int | None = None
    """When it was best; None where no earlier one was better than the final one."""
    difference: float | None = None
    """By how much it was better than the final one, in the metric's unit; None: it was not, or either is no number."""
    p: float | None = None
    """How likely the best of so many evaluations looks this much better, if none is; None: not asked."""
    evaluations: int = 0
    """Earlier evaluations that could have been the best."""
    rows: int | None = None
    """Rows that were compared."""


def scored_figures(parts: Parts, split: str) -> tuple[str, ...]:
    """The figures of a split by which evaluations are compared, so that its rows are scored by them."""
    if not parts.validation:
        return ()
    names = [parts.best_metric or "loss", stopping_metric(parts)]
    watched = [figure_of(name, parts.judged) for name in names]
    if parts.clocks.open_end:
        watched.append((watched[-1][0], "loss"))
    return tuple(dict.fromkeys(metric for place, metric in watched if parts.evaluated_with(place) == split))


def stopping_metric(parts: Parts) -> str:
    """What early stopping watches."""
    stopping = parts.recipe.early_stopping
    return (stopping.metric if stopping else None) or parts.best_metric or "loss"


def value_of(parts: Parts, progress: Progress, name: str) -> float:
    """`f1_macro` of the first validation set, or `hard.f1_macro` of a named one; NaN when there is none.

    Args:
        parts: of the run.
        progress: holds the figures of the latest evaluation.
        name: as a recipe writes it.
    """
    split, metric = figure_of(name, parts.judged)
    value = progress.figures.get(split, {}).get(metric)
    return math.nan if value is None else float(value)


def scores_of(parts: Parts, results: Mapping[str, EvalResult], name: str) -> np.ndarray | None:
    """Scores of the rows of the latest evaluation by a watched figure; None where rows have none.

    Args:
        parts: of the run.
        results: of the latest evaluation, by split.
        name: of the figure, as a recipe writes it.

    Returns:
        (R,) fp64, one a row, of a figure or of its loss.
    """
    split, metric = figure_of(name, parts.judged)
    found = of_judged(results)
    scores = found[split].scores.get(metric) if split in found else None
    return scores if scores is not None and len(scores) else None


def compared(then: np.ndarray | None, now: np.ndarray | None) -> Paired | None:
    """Two evaluations of the same rows; None where either has no scores, or other data were given in between."""
    return paired(then, now) if then is not None and now is not None and then.shape == now.shape else None


# ---------------------------------------------------------------- while training goes on


def note_best(parts: Parts, progress: Progress, results: Mapping[str, EvalResult]) -> bool:
    """Remember the best evaluation, with the scores of its rows; True when this one is it.

    Args:
        parts: of the run; it has a validation split.
        progress: holds the figures of the latest evaluation, and the best so far.
        results: of the latest evaluation, by split.
    """
    name = parts.best_metric
    assert name is not None
    value = value_of(parts, progress, name)
    previous = progress.best.value if progress.best and progress.best.metric == name else None
    if not better(value, previous, parts.larger_is_better(name), 0.0):
        return False
    progress.best = Best(metric=name, value=value, step=progress.update)
    _remember(progress, BEST, scores_of(parts, results, name))
    return True


def note_for_stopping(parts: Parts, progress: Progress, results: Mapping[str, EvalResult]) -> None:
    """Count evaluations that are no improvement: not better, or by no more than chance often makes.

    Args:
        parts: of the run, which may have no early stopping.
        progress: holds the figures of the latest evaluation, and how many before it were no improvement.
        results: of the latest evaluation, by split.
    """
    stopping = parts.recipe.early_stopping
    if stopping is None:
        return
    name = stopping_metric(parts)
    value, larger = value_of(parts, progress, name), parts.larger_is_better(name)
    if stopping.target is not None and (value >= stopping.target if larger else value <= stopping.target):
        progress.target_reached = True
    scores = scores_of(parts, results, name)
    improved = better(value, progress.stop_best, larger, stopping.min_delta)
    # What only the loss could say of a figure has no say here: they part company when a model gets sure of itself.
    if (
        improved
        and parts.recipe.best.choose == "paired"
        and scored_by_itself(figure_of(name, parts.judged)[1], parts.metrics)
    ):
        found = compared(progress.scores.get(STOPPING), scores)
        improved = found is None or found.plausible
    if improved:
        progress.stop_best, progress.stale_evaluations = value, 0
        _remember(progress, STOPPING, scores)
    else:
        progress.stale_evaluations += 1


def _remember(progress: Progress, name: str, scores: np.ndarray | None) -> None:
    progress.scores.pop(name, None)
    if scores is not None:
        progress.scores[name] = scores


# ---------------------------------------------------------------- at the end


def needs_final_scores(parts: Parts, progress: Progress) -> bool:
    """Whether the choice depends on the rows of the final evaluation."""
    best = progress.best
    return best is not None and best.step != progress.update and parts.recipe.best.choose == "paired"


def choose(parts: Parts, progress: Progress, results: Mapping[str, EvalResult]) -> Kept:
    """The final weights, unless the best evaluation was an earlier one that beats them by more than chance.

    Args:
        parts: of the run.
        progress: at its end; its figures are those of the final weights.
        results: of the final evaluation, unless the choice does not need it.
    """
    best = progress.best
    if best is None:
        return Kept(
            update=progress.update, of="final", why="the final weights are kept: no evaluation chose others"
        )
    if best.step == progress.update:
        why = f"the final weights are kept: {best.metric} was never better"
        return Kept(update=progress.update, of="final", why=why, metric=best.metric)
    final = value_of(parts, progress, best.metric)
    difference = abs(best.value - final) if math.isfinite(best.value - final) else None
    facts = {"metric": best.metric, "best_update": best.step, "difference": difference}
    facts["evaluations"] = others = max(1, progress.evaluations - 1)
    then = f"after update {best.step:,} {best.metric} was {best.value:.4g}, at the end {final:.4g}"
    found = compared(scores_of(parts, results, best.metric), progress.scores.get(BEST))
    if parts.recipe.best.choose == "figure" or math.isnan(final) or found is None:
        asked = (
            "best.choose: figure" if parts.recipe.best.choose == "figure" else "their rows cannot be compared"
        )
        why = f"the weights of update {best.step:,} are kept: {then} ({asked})"
        return Kept(update=best.step, of="best", why=why, **facts)
    p = best_of(found.p, others)
    rows = f"{found.rows:,} {'row' if found.rows == 1 else 'rows'}"
    sure = f"p {shown_p(p)} on {rows}{f', as the best of {others} evaluations' if others > 1 else ''}"
    facts |= {"p": p, "rows": found.rows}
    if p < BEYOND_CHANCE:
        why = f"the weights of update {best.step:,} are kept: {then}, a difference beyond chance ({sure})"
        return Kept(update=best.step, of="best", why=why, **facts)
    why = f"the final weights are kept: {then}, a difference that chance makes too ({sure})"
    return Kept(update=progress.update, of="final", why=why, **facts)


def shown_p(p: float) -> str:
    """A chance in words.

    Example:
        >>> shown_p(0.3141), shown_p(0.00002)
        ('= 0.31', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"= {p:.2g}" if p < 0.995 else "= 1"
