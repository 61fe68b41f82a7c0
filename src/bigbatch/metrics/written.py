"""The figures of texts that a model writes, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bigbatch.errors import RecipeError
from bigbatch.metrics.bleu import WrittenMetric, scorer
from bigbatch.metrics.rouge import Rouge

COUNTED, MEANS = ("bleu", "chrf"), ("rouge_l", "rouge_lsum")
"""By sacrebleu; by `metrics.rouge`."""

Place = Literal["worst", "typical", "best"]
"""Where a text stands among all of its split by its score; `typical`: around the median."""
_SHARES: dict[Place, int] = {"worst": 2, "typical": 1, "best": 1}
"""Of the texts that are shown: half are the worst, since there is most to learn from them."""


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
    place: Place = "worst"


def shown_texts(texts: Sequence[str], wanted: Sequence[str], most: int) -> tuple[WrittenRow, ...]:
    """Some of the texts beside those that were wanted: the worst, some around the median, the best; worst first.

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
    order = np.argsort(scores, kind="stable").tolist()
    return tuple(
        WrittenRow(
            row=row, written=str(texts[row]), wanted=str(wanted[row]), score=float(scores[row]), by=by, place=place
        )
        for place, rows in _places(order, most).items()
        for row in rows
    )  # fmt: skip


def _places(order: Sequence[int], most: int) -> dict[Place, Sequence[int]]:
    """Which rows are shown as what, no row twice.

    Args:
        order: all rows, worst first.
        most: of all places together.
    """
    total, parts = min(most, len(order)), sum(_SHARES.values())
    typical, best = (total * _SHARES[place] // parts for place in ("typical", "best"))
    worst, behind = total - typical - best, len(order) - best
    first = min(max((len(order) - typical) // 2, worst), behind - typical)
    return {"worst": order[:worst], "typical": order[first : first + typical], "best": order[behind:]}
