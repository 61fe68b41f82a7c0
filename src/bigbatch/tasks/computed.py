"""`compute_metrics` of Hugging Face's Trainer as a metric: one function of all logits and labels that names figures.

The function is given what it is given there: float32 logits and labels of the whole split, (rows, C) and (rows,) of
classification, (rows, words, C) and (rows, words) of tags, where -100 fills a row up.

Shapes: U units, C outputs per unit.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bigbatch.errors import UsageError
from bigbatch.metrics.entities import PIECE, STARTS
from bigbatch.metrics.states import joined
from bigbatch.model.heads import HEADS
from bigbatch.samples import Predictions, Targets
from bigbatch.tasks.base import Task
from bigbatch.tasks.losses import IGNORED

if TYPE_CHECKING:
    from transformers import EvalPrediction

PREFIX = "eval_"
"""Stands in front of figures there, and of none here."""
Chunks = tuple[tuple[Predictions, Targets], ...]


@dataclass(frozen=True, kw_only=True)
class ComputedMetrics:
    """The figures that a function of the caller's names; the state is all logits and labels so far, in order."""

    function: Callable[[EvalPrediction], Mapping[str, float]]
    larger_is_better: bool = True
    own = True
    name = "compute_metrics"

    def add(self, predictions: Predictions, targets: Targets) -> Chunks:
        """These units."""
        return ((predictions, targets),)

    def merge(self, left: Chunks, right: Chunks) -> Chunks:
        """Both, in this order."""
        return left + right

    def value(self, state: Chunks) -> Mapping[str, float]:
        """The figures by their names.

        Raises:
            UsageError: the function gave something else.
        """
        from transformers import EvalPrediction

        logits, labels = as_arrays(*joined(state))
        return _figures(self.function(EvalPrediction(predictions=logits, label_ids=labels)))


def computed_metrics(function: Any, task: Task, larger_is_better: bool | None) -> ComputedMetrics:
    """The metric of a `compute_metrics`, where the task has what it is to be given.

    Args:
        function: of `transformers.EvalPrediction`, that gives figures by name.
        task: whose logits and labels it is given.
        larger_is_better: of its figures, where one chooses the weights; None: yes.

    Raises:
        UsageError: it is no function, or the task keeps no logits.
    """
    given: Any = function
    if not callable(function):
        raise UsageError(
            f"compute_metrics: found {type(function).__name__}; expected a function of EvalPrediction"
        )
    why = why_no_logits(task)
    if why:
        raise UsageError(f"compute_metrics: {why}; name figures with metrics= instead")
    return ComputedMetrics(function=given, larger_is_better=larger_is_better is not False)


def why_no_logits(task: Task) -> str:
    """Why a task's evaluation has no logits to hand out; empty where it has."""
    if HEADS[task.head.kind].defers_logits:
        known = ", ".join(metric.name for metric in task.usual_metrics)
        return f"a language model's logits are never kept, one a token and entry of the vocabulary (there are {known})"
    if task.couples == "batch":
        return "the task gives embeddings, not logits of labels"
    return ""


def as_arrays(predictions: Predictions, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
    """Logits (float32) and labels of a split as the Trainer has them."""
    logits_UC, labels_U = predictions.scores.astype(np.float32), np.asarray(targets.values)
    if predictions.kind == "single":
        labels_U = np.where(np.asarray(targets.weights) > 0, labels_U, IGNORED).astype(np.int64)
    if predictions.kind == "multi":
        labels_U = labels_U.reshape(logits_UC.shape)
    if (
        predictions.kind == "language"
    ):  # the rewards of a pair (P, 2), of which the first should be the larger
        return logits_UC.reshape(-1, 2), np.zeros(len(logits_UC) // 2, np.int64)
    if STARTS not in targets.extras:
        return logits_UC, labels_U
    rows_U = np.cumsum(np.asarray(targets.extras[STARTS]) > 0) - 1
    # Further pieces of a word are learnt from where the task says so, but never scored.
    first_U = np.asarray(targets.extras.get(PIECE, np.zeros(len(rows_U)))) == 0
    return _in_rows(logits_UC[first_U], labels_U[first_U], rows_U[first_U])


def _in_rows(
    logits_UC: np.ndarray, labels_U: np.ndarray, rows_U: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One row a sentence, filled up with -100."""
    counts = np.bincount(rows_U) if len(rows_U) else np.zeros(0, np.int64)
    shape = (len(counts), int(counts.max(initial=0)))
    places_U = np.arange(len(rows_U)) - np.repeat(np.cumsum(counts) - counts, counts)
    logits = np.full((*shape, logits_UC.shape[1]), IGNORED, np.float32)
    labels = np.full(shape, IGNORED, np.int64)
    logits[rows_U, places_U], labels[rows_U, places_U] = logits_UC, labels_U
    return logits, labels


def _figures(found: Any) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise UsageError(f"compute_metrics: it gave {found!r:.60}; expected a dictionary of figures by name")
    wrong = {name: item for name, item in found.items() if not _is_number(item)}
    if wrong:
        name, item = next(iter(wrong.items()))
        raise UsageError(f"compute_metrics: {name} is {item!r:.60}; expected a number")
    return {
        str(name).removeprefix(PREFIX): math.nan if item is None else float(item)
        for name, item in found.items()
    }


def _is_number(item: Any) -> bool:
    """A number of any library's, an array of one, or None for a figure that does not exist."""
    return item is None or isinstance(item, numbers.Real) or (hasattr(item, "item") and np.size(item) == 1)
