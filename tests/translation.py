"""Sequence-to-sequence jobs for the exactness tests: rows of token ids, and the oracle's batches of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from bigbatch.build.parts import Parts
from tests.models import VOCABULARY
from tests.split import Rows, Trajectory, by_oracle, parts_of

TASK = {"name": "seq2seq"}


def pairs(count: int, *, seed: int = 0, longest: int = 40, end: int = 2, gaps: bool = True) -> Rows:
    """Rows of token ids of very uneven lengths, sources and targets apart; with gaps a token here and there does not
    count.
    """
    random = np.random.default_rng(seed)

    def texts() -> list[list[int]]:
        lengths = np.clip(random.lognormal(2.3, 0.8, count), 2, longest - 1).astype(int)
        return [[*random.integers(5, VOCABULARY, length).tolist(), end] for length in lengths]

    rows = [{"input_ids": source, "labels": target} for source, target in zip(texts(), texts(), strict=True)]
    for row in rows[::7]:
        row["labels"] += [-100, -100]
    for row in rows[::14] if gaps else ():
        row["labels"][0] = -100
    return rows


def translation_parts(module: nn.Module, rows: Rows, **keys: Any) -> Parts:
    """A copy of the module with the rows, ready to be trained to translate."""
    return parts_of(module, rows, "seq2seq", **{"task": TASK, "batch": 40, **keys})


def train_translation_reference(
    module: nn.Module, parts: Parts, rows: Rows, updates: int, **keys: Any
) -> Trajectory:
    """The same updates by the oracle: the whole padded batch at once, shifted by transformers."""

    def row_of(_: int, number: int) -> dict[str, Any]:
        return {"ids": rows[number]["input_ids"], "labels": rows[number]["labels"]}

    return by_oracle(module, parts, row_of, updates, kind="seq2seq", **keys)
