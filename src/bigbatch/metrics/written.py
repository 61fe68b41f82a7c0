"""The figures of texts that a model writes, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bigbatch.errors import RecipeError
from bigbatch.metrics.bleu import WrittenMetric, scorer
from bigbatch.metrics.rouge import Rouge

COUNTED, MEANS = ("bleu", "chrf"), ("rouge_l", "rouge_lsum")
"""By sacrebleu; by `metrics.rouge`."""


def written_metrics() -> Mapping[str, WrittenMetric]:
    """By name."""
    counted = {name: WrittenMetric(name=name) for name in COUNTED}
    return {**counted, **{name: Rouge(name=name) for name in MEANS}}


@dataclass(frozen=True, kw_only=True)
class WrittenRow:
    """One text, beside the one that was wanted."""

    row: int
    """Of the table, from 0."""
    written: str
    wanted: str
    score: float
    """Of this text alone, from 0 to 100."""
    by: str
    """The figure: `chrf`, or `rouge_l` where sacrebleu is not installed."""


def worst_texts(texts: Sequence[str], wanted: Sequence[str], most: int) -> tuple[WrittenRow, ...]:
    """The texts that are least like those that were wanted, the worst first.

    Args:
        texts: by the model.
        wanted: as many.
        most: rows that are given.
    """
    by = "chrf"
    try:
        one = scorer(by, "13a")
        both = zip(texts, wanted, strict=True)
        scores = np.array([one.sentence_score(ours, [theirs]).score for ours, theirs in both])
    except RecipeError:
        by = "rouge_l"
        scores = written_metrics()[by].rows(texts, wanted)
    chosen = np.argsort(scores, kind="stable")[:most].tolist()
    return tuple(
        WrittenRow(row=row, written=str(texts[row]), wanted=str(wanted[row]), score=float(scores[row]), by=by)
        for row in chosen
    )
