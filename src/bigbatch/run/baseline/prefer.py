"""Baselines of preferences: the longer answer, and the answer that the starting model finds likelier."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bigbatch.data.sides import sequence_starts
from bigbatch.run.baseline.model import Baseline
from bigbatch.samples import Predictions, Table
from bigbatch.tasks.prefer import REFERENCE

LONGER, START = "longer_answer", "starting_model"


def prefer_baselines(with_start: bool) -> Iterator[Baseline]:
    """Those of `task: prefer`; nothing is learnt. `with_start`: what the starting model says is known."""
    yield Baseline(name=LONGER, outputs=lambda split: _rewards(np.ones(len(split.table.weights))))
    if with_start:
        yield Baseline(name=START, outputs=lambda split: _rewards(_log_probabilities(split.table)))


def _rewards(parts_U: np.ndarray) -> Predictions:
    """Each unit's part of its answer's reward."""
    return Predictions(kind="language", scores=parts_U[:, None], probabilities=None, values=parts_U)


def _log_probabilities(table: Table) -> np.ndarray:
    """(U,) float64: of the whole answer, at its first unit."""
    starts_S, parts_U = sequence_starts(np.asarray(table.values)), np.zeros(len(table.weights))
    parts_U[starts_S] = np.asarray(table.extras[REFERENCE])[starts_S]
    return parts_U
