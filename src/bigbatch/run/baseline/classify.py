"""Baselines of classification: the majority (of numbers the mean), and a linear model of a bag of words.

Shapes: N rows, C outputs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigbatch.run.baseline.features import CHARACTERS, TOKENS, WORDS, Bag, Kind
from bigbatch.run.baseline.linear import Loss, fit
from bigbatch.run.baseline.model import Baseline, Split, spread
from bigbatch.tasks.classify import Classify

BAG_OF_WORDS = "bag_of_words"
_WITH_CHARACTERS = 2_000_000
"""Characters of training text up to which n-grams of characters are features, too; longer texts do as well without."""
_MOST_SYMBOLS = 24_000_000
"""Characters of training text (a token id counts as four) that are looked at."""
_MOST_WEIGHTS = 2_000_000
"""Of the linear model: bounds its memory; more change the third digit."""
_ROWS_AT_A_TIME = 8192
Column = Any
"""A sequence of texts, or arrays of token ids."""


def classify_baselines(task: Classify, train: Split, seconds: float) -> Iterator[Baseline]:
    """Those of `task: classify`, for rows with one unit each.

    Args:
        task: says what a row is labelled with: one class, several, numbers.
        train: the rows to learn from, with their tokens and targets.
        seconds: that fitting may take.
    """
    kind: Loss = task.kind
    counted = np.flatnonzero(np.asarray(train.table.weights) > 0)
    targets = np.asarray(train.table.values)[counted]
    outputs = task.head.outputs
    if not len(counted):
        return
    constant_C = constant_outputs(targets, kind, outputs)
    yield Baseline(
        name="mean" if kind == "regression" else "majority",
        outputs=lambda split: np.tile(constant_C, (len(split.table), 1)),
    )
    yield _bag(_Training(kind, counted, targets, outputs), train, seconds)


@dataclass(frozen=True)
class _Training:
    kind: Loss
    counted: np.ndarray
    """Numbers of the rows that have a label."""
    targets: np.ndarray
    """Theirs."""
    outputs: int


def constant_outputs(targets: np.ndarray, kind: Loss, outputs: int) -> np.ndarray:
    """What is right most often, as outputs (C,) float64.

    Args:
        targets: (N,) classes, (N, C) zeros and ones, or numbers.
        kind: which of these.
        outputs: C.
    """
    if kind == "single":
        return np.log((np.bincount(targets, minlength=outputs) + 1e-3) / (len(targets) + 1e-3 * outputs))
    mean_C = targets.reshape(len(targets), -1).astype(np.float64).mean(0)
    if kind == "regression":
        return mean_C
    share_C = np.clip(mean_C, 0.5 / (len(targets) + 1), 1 - 0.5 / (len(targets) + 1))
    return np.log(share_C / (1 - share_C))


def _bag(of: _Training, train: Split, seconds: float) -> Baseline:
    started = time.monotonic()
    kept, kinds = _affordable(of, train)
    bag = Bag(
        [column[of.counted[kept]] for column in columns_of(train)],
        kinds,
        most=max(1000, _MOST_WEIGHTS // of.outputs),
    )
    targets = of.targets[kept]
    centre, scale = np.zeros(1), np.ones(1)
    if of.kind == "regression":
        targets = targets.reshape(len(targets), -1).astype(np.float64)
        centre, scale = targets.mean(0), np.maximum(targets.std(0), 1e-12)
        targets = (targets - centre) / scale
    left = max(1.0, seconds - (time.monotonic() - started))
    model = fit(bag.learnt_from, targets, of.kind, outputs=of.outputs, seconds=left)

    def outputs(split: Split) -> np.ndarray:
        columns = columns_of(split)
        parts = [
            model(bag([column[first : first + _ROWS_AT_A_TIME] for column in columns]))
            for first in range(0, len(split.table), _ROWS_AT_A_TIME)
        ]
        return np.concatenate(parts) * scale + centre

    notes = []
    if len(kept) < len(of.counted):
        notes.append(f"fitted on {len(kept):,} of {len(of.counted):,} rows")
    if not model.done:
        notes.append(f"stopped after {model.steps} steps, before it had converged")
    return Baseline(name=BAG_OF_WORDS, outputs=outputs, note="; ".join(notes))


def _affordable(of: _Training, train: Split) -> tuple[np.ndarray, tuple[Kind, ...]]:
    """Which of the labelled rows are looked at, and which n-grams."""
    ids = train.rows.tokenised
    sizes = sum(_lengths(column)[of.counted] for column in columns_of(train)) * (4 if ids else 1)
    total = int(np.sum(sizes))
    most_rows = int(len(of.counted) * min(1.0, _MOST_SYMBOLS / max(1, total)))
    kinds = (TOKENS,) if ids else (WORDS, CHARACTERS) if total <= _WITH_CHARACTERS else (WORDS,)
    return spread(len(of.counted), max(1, most_rows)), kinds


def columns_of(split: Split) -> list[Column]:
    """The columns that a bag of words reads: text and, if there is one, pair; token ids where there is no text."""
    if split.rows.tokenised:
        return [_Tokens(split)]
    names = [name for name in ("text", "pair") if name in split.rows.rows.column_names]
    return [_Texts(split, name) for name in names]


class _Texts:
    """A column of texts, of which only those asked for are in memory; a missing one is empty."""

    def __init__(self, split: Split, name: str) -> None:
        self._column = split.rows.rows.column(name)

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, chosen: slice | np.ndarray) -> list[str]:
        found = self._column[chosen] if isinstance(chosen, slice) else self._column.take(chosen)
        return [text or "" for text in found.to_pylist()]


class _Tokens:
    """The token ids of each row, as the model reads them."""

    def __init__(self, split: Split) -> None:
        self._table = split.table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, chosen: slice | np.ndarray) -> list[np.ndarray]:
        offsets = self._table.token_offsets
        rows = np.arange(len(self))[chosen]
        return [np.asarray(self._table.ids[offsets[row] : offsets[row + 1]]) for row in rows]


def _lengths(column: Column) -> np.ndarray:
    """(N,) characters or tokens of each row."""
    parts = [
        [len(each) for each in column[first : first + _ROWS_AT_A_TIME]]
        for first in range(0, len(column), _ROWS_AT_A_TIME)
    ]
    return np.array([length for part in parts for length in part], np.int64)
