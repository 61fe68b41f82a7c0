"""What a model answers on a split, and which of that is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bigbatch.metrics.span import span_metrics
from bigbatch.samples import Predictions, Table
from bigbatch.tasks.span import Span

NONE = "(no answer)"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of all questions of a split, in order."""

    texts: tuple[list[str], list[list[str]]]
    """Those given, and all right ones."""
    wrong: list[tuple[int, str, str, float | None, int]]
    """(row, first right answer, given answer, its probability, its first character) of those that match none, surest
    first."""


def answers_of(task: Span, outputs: np.ndarray | Predictions, table: Table) -> Answers:
    """The answers that logits give.

    Args:
        task: picks them.
        outputs: (U, 2) of start and end.
        table: the split, as `task.fixed` gives it.
    """
    found = task.best(outputs.scores if isinstance(outputs, Predictions) else outputs, table)
    texts = task.texts(found, table)
    matches_Q = span_metrics(task.language)["exact_match"].rows(*texts)
    given_Q = task.answered(found)
    shares = [
        math.exp(share) if given else None
        for share, given in zip(found.log_probability, given_Q, strict=True)
    ]
    wrong = [
        (int(row), (texts[1][row] or [NONE])[0], texts[0][row] or NONE, shares[row], int(found.first[row]))
        for row in np.flatnonzero(matches_Q == 0)
    ]
    return Answers(texts=texts, wrong=sorted(wrong, key=lambda one: (-(one[3] or 0.0), one[0])))
