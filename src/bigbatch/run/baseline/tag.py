"""The baseline of tagging: every word gets the tag that it had most often in training, an unseen one the most frequent.

Shapes: U units (words, or pieces of them), C tags.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bigbatch.data.values import words_of
from bigbatch.files.class_names import NOT_COUNTED
from bigbatch.metrics.entities import PIECE
from bigbatch.run.baseline.model import Baseline, Split
from bigbatch.tasks.tag import Tag

_ROWS_AT_A_TIME = 4096


def tag_baselines(task: Tag, train: Split) -> Iterator[Baseline]:
    """That of `task: tag`."""
    tags = len(task.label_names)
    numbers: dict[str | int, int] = {}
    counted_U = np.asarray(train.table.weights) > 0
    if not counted_U.any():
        return
    words_U = np.array([numbers.setdefault(key, len(numbers)) for key in _keys(train)], np.int64)
    pairs_U = words_U[counted_U] * tags + np.asarray(train.table.values)[counted_U]
    counts_WC = np.bincount(pairs_U, minlength=len(numbers) * tags).reshape(-1, tags)
    shares_C = (counts_WC.sum(0) + 1e-3) / (counts_WC.sum() + 1e-3 * tags)

    def outputs(split: Split) -> np.ndarray:
        known_U = np.array([numbers.get(key, -1) for key in _keys(split)], np.int64)
        of_word_UC = np.where((known_U >= 0)[:, None], counts_WC[known_U], 0)
        # One word's worth of the tags' shares decides ties, and unseen words.
        return np.log((of_word_UC + shares_C) / (of_word_UC.sum(1, keepdims=True) + 1))

    yield Baseline(name="most_frequent_tag", outputs=outputs)


def _keys(split: Split) -> list[str] | list[int]:
    """What stands for each unit: its word, or the token id at which it is read where rows have no words."""
    rows, table = split.rows, split.table
    if not rows.tokenised:
        further_U = np.asarray(table.extras[PIECE]) > 0 if PIECE in table.extras else None
        words = [word for row in rows.iterate(_ROWS_AT_A_TIME) for each in row for word in _counted(each)]
        if further_U is not None and len(words) == int((~further_U).sum()):
            return [words[place] for place in np.cumsum(~further_U) - 1]
        if further_U is None and len(words) == len(table.reads):
            return words
    starts_U = np.repeat(table.token_offsets[:-1], np.diff(table.unit_offsets))
    return np.asarray(table.ids)[starts_U + np.asarray(table.reads)].tolist()


def _counted(row: dict[str, Any]) -> list[str]:
    """The words of a sentence that are units: those whose tag is not -100."""
    words, tags = words_of(row["words"]) or [], row.get("tags")
    if tags is None or len(tags) != len(words):
        return words
    return [word for word, tag in zip(words, tags, strict=True) if tag != NOT_COUNTED]
