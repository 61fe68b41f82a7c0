"""The sentence that a finished run ends with, out of what it left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bigbatch.build.parts import Parts
from bigbatch.infer.evaluate import EvalResult
from bigbatch.metrics.entities import scheme_of
from bigbatch.metrics.watched import larger_is_better
from bigbatch.rules.verdict import Course, Curves, Held, verdict
from bigbatch.run.baseline import kept as baselines
from bigbatch.run.baseline.kept import Baselines
from bigbatch.tasks.base import Task

if TYPE_CHECKING:
    from bigbatch.run.between import Between

Figures = Mapping[str, Mapping[str, float | None]]


def run_verdict(parts: Parts, between: Between, final: Figures, found: Baselines) -> str:
    """The sentence; on the rank that owns the journal.

    Args:
        parts: of the run.
        between: knows how it went, and the scores of the last evaluation's rows.
        final: split -> figure -> value, of the kept weights.
        found: the simple models that it is held against.
    """
    split = baselines.told_split(parts)
    metric = baselines.figure(parts) or "loss"
    if found.metric:
        metric = found.metric
    ours = final.get(split, {}).get(metric)
    if ours is None:
        metric, ours = "loss", final.get(split, {}).get("loss")
    held = None if ours is None else _held(parts, between, found, metric, float(ours))
    never, kind = never_predicted(parts.task, between.results.get(split))
    return verdict(held, _curves(parts, between, metric), _course(parts, between), never=never, kind=kind)


def _held(parts: Parts, between: Between, found: Baselines, metric: str, ours: float) -> Held:
    split = baselines.told_split(parts)
    theirs = {name: splits[split].get(metric) for name, splits in found.figures.items() if split in splits}
    result = between.results.get(split)
    scores = None if result is None else result.scores.get(metric)
    return Held(
        metric=metric,
        ours=ours,
        larger_is_better=larger_is_better(metric, parts.metrics),
        split=split,
        rows=len(scores) if scores is not None and len(scores) else len(parts.rows[split]),
        baselines={name: float(value) for name, value in theirs.items() if value is not None},
        entities=parts.task.marked,
        our_scores=None if scores is None else scores.tolist(),
        their_scores={name: splits[split] for name, splits in found.scores.items() if split in splits},
    )


def _curves(parts: Parts, between: Between, metric: str) -> Curves:
    main = (*parts.validation, "")[0]
    steps, values, losses, training = [], [], [], []
    for record in between.keeper.journal.read():
        if record["kind"] == "update":
            if (loss := record.get("loss")) is not None:
                training.append(float(loss))
        elif record["kind"] == "eval" and record["split"] == main:
            value, loss = record.get(metric), record.get("loss")
            if value is not None and loss is not None:
                steps.append(int(record["step"]))
                values.append(float(value))
                losses.append(float(loss))
    return Curves(steps=steps, values=values, losses=losses, training=training)


def _course(parts: Parts, between: Between) -> Course:
    progress, length = between.progress, parts.recipe.length
    return Course(
        length=length.unit,
        # A run whose end validation found was as long as it became, not as its bound allowed.
        amount=parts.clocks.length.epochs if parts.clocks.open_end else length.amount,
        seconds=progress.train_seconds + progress.evaluate_seconds,
        batch_samples=parts.recipe.batch.samples,
        updates=progress.update,
        lr=parts.clocks.effective.lr,
        stopped=progress.stopped is not None,
    )


def never_predicted(task: Task, result: EvalResult | None) -> tuple[list[str], str]:
    """Classes that occur in a split and are never predicted there, and what they are: classes, or types of entities."""
    if result is None or result.confusion is None:
        return [], "class"
    true_C, said_C = result.confusion.sum(1), result.confusion.sum(0)
    if task.marked:
        scheme = scheme_of(result.labels)
        types_C = scheme.types_C[: len(true_C)]
        true_C, said_C = (
            np.bincount(types_C[types_C >= 0], counts_C[types_C >= 0], len(scheme.types))
            for counts_C in (true_C, said_C)
        )
        return list(_named(scheme.types, true_C, said_C)), "type"
    return list(_named(result.labels, true_C, said_C)), "class"


def _named(names: Any, true_C: np.ndarray, said_C: np.ndarray) -> Iterator[str]:
    return (str(names[index]) for index in np.flatnonzero((true_C > 0) & (said_C == 0)) if index < len(names))
